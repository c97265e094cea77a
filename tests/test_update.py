"""The update step: what moves what, accumulation, several devices, the guard."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import byol_jax.update as update
import tiny_numbers
from byol_jax import keys
from byol_jax.augment import compose
from byol_jax.networks.siamese import HeadSpec, NetworkSpec, siamese
from byol_jax.objectives import probe
from byol_jax.optim import lars
from byol_jax.program import Program, init_state
from byol_jax.runtime import spmd

SPEC = NetworkSpec(
    depth="tiny",
    width=0.5,
    stem="small",
    num_classes=6,
    projector=HeadSpec(2, 12, 6),
    predictor=HeadSpec(2, 12, 6),
)
HPARAMS = tiny_numbers.hyperparameters(weight_decay=1e-3, trust_coefficient=0.1, momentum=0.9)


def make_batch(size=8, seed=0):
    generator = np.random.default_rng(seed)
    return {
        "view1": generator.integers(0, 256, (size, 8, 8, 3), np.uint8),
        "view2": generator.integers(0, 256, (size, 8, 8, 3), np.uint8),
        "labels": generator.integers(0, 6, size).astype(np.int32),
        "ids": np.arange(size, dtype=np.int32),
        "epochs": np.zeros(size, np.int32),
    }


def make_step(spec=SPEC, axis=None):
    return functools.partial(update.train_step, program=Program(siamese(spec), axis=axis))


@functools.cache
def single_step():
    return jax.jit(make_step())


@functools.cache
def initial_state(target_init):
    return init_state(0, Program(siamese(SPEC)), (8, 8), target_init=target_init)


def make_state(target_init="released"):
    return jax.tree.map(lambda x: x, initial_state(target_init))  # dicts of the caller's own


@functools.cache
def forward():
    """(params, state, views) -> (outputs, next state), in training mode."""
    network = siamese(SPEC)
    return jax.jit(lambda params, state, views: network.apply(params, state, None, views, True))


def leaves_equal(a, b):
    return [
        bool(np.array_equal(x, y))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    ]


def test_target_starts_as_a_copy_or_on_its_own():
    state = make_state(target_init="paper")
    assert all(leaves_equal(state.online_params, state.target_params))
    state = make_state(target_init="released")
    weights = [n for n in state.online_params if "linear" in n or "conv" in n]
    for name in weights:
        assert not np.array_equal(state.online_params[name]["w"], state.target_params[name]["w"])


def test_target_follows_equation_1_with_the_new_online_parameters():
    state = make_state()
    new, logs = single_step()(state, make_batch(), 0, HPARAMS)
    tau = 0.9  # tau_base, at step 0
    np.testing.assert_allclose(logs["tau"], tau, rtol=1e-6)
    assert not all(leaves_equal(state.online_params, new.online_params))

    def expected(xi, theta):
        return tau * np.asarray(xi, np.float64) + (1 - tau) * np.asarray(theta, np.float64)

    jax.tree.map(
        lambda xi, theta, got: np.testing.assert_allclose(
            got, expected(xi, theta), rtol=1e-5, atol=1e-6
        ),
        state.target_params,
        new.online_params,
        new.target_params,
    )


def test_labels_change_the_probe_and_no_bit_of_anything_else():
    state, batch = make_state(), make_batch()
    other = batch | {"labels": (batch["labels"] + 1) % 6}
    first, first_logs = single_step()(state, batch, 0, HPARAMS)
    second, second_logs = single_step()(state, other, 0, HPARAMS)
    assert first_logs["probe_loss"] != second_logs["probe_loss"]
    assert first_logs["loss"] == second_logs["loss"]
    probes = [s.online_params.pop("classifier") for s in (first, second)]
    assert not np.array_equal(probes[0]["w"], probes[1]["w"])
    assert all(leaves_equal(first.online_params, second.online_params))
    assert all(leaves_equal(first.online_state, second.online_state))


def test_probe_is_trained_by_view_1_with_the_same_optimiser():
    state, batch = make_state(), make_batch()
    new, logs = single_step()(state, batch, 0, HPARAMS)
    key = keys.named_key(0, "augment")
    view = compose.make_views(
        batch["view1"], batch["ids"], batch["epochs"], key, 1, HPARAMS.views[0]
    )
    outputs, _ = forward()(state.online_params, state.online_state, view)
    embedding = np.asarray(outputs["embedding"], np.float64)
    w = np.asarray(state.online_params["classifier"]["w"], np.float64)
    logits = embedding @ w  # the bias starts at 0
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    one_hot = np.eye(6)[batch["labels"]]
    loss = -np.mean(np.log(np.sum(probabilities * one_hot, axis=1)))
    np.testing.assert_allclose(logs["probe_loss"], loss, rtol=1e-4)
    gradient = embedding.T @ (probabilities - one_hot) / len(one_hot)
    u = gradient + HPARAMS.groups.probe.weight_decay * w
    u *= HPARAMS.groups.probe.trust_coefficient * np.linalg.norm(w) / np.linalg.norm(u)
    np.testing.assert_allclose(new.online_params["classifier"]["w"], w - u, rtol=1e-3, atol=1e-5)
    top1 = 100 * np.mean(np.argmax(logits, 1) == batch["labels"])
    ranks = np.argsort(-logits, axis=1)[:, :5]
    top5 = 100 * np.mean(np.any(ranks == batch["labels"][:, None], axis=1))
    np.testing.assert_allclose([logs["probe_top1"], logs["probe_top5"]], [top1, top5], rtol=1e-5)


def test_unlabelled_examples_do_not_count_for_the_probe():
    logits = jnp.array([[2.0, 0.0], [0.0, 3.0], [5.0, 1.0]])
    loss, logs = probe.probe_loss(logits, jnp.array([0, 0, -1]), None)
    expected = np.mean([np.log(1 + np.exp(-2.0)), np.log(1 + np.exp(3.0))])
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(logs["probe_top1"], 50.0)
    loss, logs = probe.probe_loss(logits, jnp.array([-1, -1, -1]), None)
    assert float(loss) == 0.0
    assert float(logs["probe_top1"]) == 0.0


def test_two_devices_equal_one():
    spec = SPEC._replace(bn_axis=spmd.AXIS)
    state, batch = make_state(), make_batch()
    one, one_logs = single_step()(state, batch, 0, HPARAMS)
    devices = jax.devices()[:2]
    mapped = spmd.pmap(make_step(spec, spmd.AXIS), devices=devices)
    arguments = [spmd.replicate(x, devices) for x in (state, np.int32(0), HPARAMS)]
    two, two_logs = mapped(arguments[0], spmd.shard(batch, devices=devices), *arguments[1:])
    # Both replicas hold the same bits.
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[0], x[1]), two)
    for name, value in one_logs.items():
        own = two_logs[name][0]
        if name in update.EMBEDDINGS:
            own = spmd.local_rows(two_logs[name])
        np.testing.assert_allclose(own, value, rtol=1e-4, atol=1e-5)
    # Sums of 8 terms in another order, and a trust ratio, in float32.
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x[0], y, rtol=1e-3, atol=2e-4),
        two.online_params,
        one.online_params,
    )


@pytest.mark.slow
@pytest.mark.ci
def test_accumulation_is_a_loop_over_micro_batches_and_one_update():
    """App. G.2: gradients averaged over N passes, one update of online and target."""
    state, batch = make_state(), make_batch(16)
    micro = jax.tree.map(lambda x: x.reshape(2, 8, *x.shape[1:]), batch)
    got, logs = single_step()(state, micro, 0, HPARAMS)

    network, key = siamese(SPEC), keys.named_key(0, "augment")
    online_state, target_state = state.online_state, state.target_state

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def differentiate(params, online_state, target_state, views, labels):
        online, target = [], []
        for view in views:
            out, online_state = network.apply(params, online_state, None, view, True)
            online.append(out)
        for view in views:
            out, target_state = network.apply(state.target_params, target_state, None, view, True)
            target.append(out)
        cosine = 0.0
        for q, z in ((online[0], target[1]), (online[1], target[0])):
            q, z = q["prediction"], z["projection"]
            cosine += jnp.sum(q * z, -1) / (
                jnp.linalg.norm(q, axis=-1) * jnp.linalg.norm(z, axis=-1)
            )
        targets = jax.nn.one_hot(labels, 6)
        probe = -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(online[0]["logits"]), -1))
        representation = jnp.mean(4 - 2 * cosine)
        return representation + probe, (online_state, target_state, representation)

    gradients, losses = [], []
    for m in range(2):
        batch_m = jax.tree.map(lambda x, m=m: x[m], micro)
        views = [
            compose.make_views(
                batch_m[f"view{v}"],
                batch_m["ids"],
                batch_m["epochs"],
                key,
                v,
                HPARAMS.views[v - 1],
            )
            for v in (1, 2)
        ]
        gradient, (online_state, target_state, value) = differentiate(
            state.online_params, online_state, target_state, views, batch_m["labels"]
        )
        gradients.append(gradient)
        losses.append(float(value))
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *gradients)
    np.testing.assert_allclose(logs["loss"], np.mean(losses), rtol=1e-5)
    optimizer = lars.lars(1.0, weight_decay=1e-3, trust_coefficient=0.1, momentum=0.9)
    updates, _ = optimizer.update(mean, optimizer.init(state.online_params), state.online_params)
    expected = jax.tree.map(jnp.add, state.online_params, updates)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=2e-4),
        got.online_params,
        expected,
    )
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
        got.online_state,
        online_state,
    )
    assert int(got.step) == 1


def test_every_number_is_traced():
    step = single_step()
    state, batch = make_state(), make_batch()
    before = step._cache_size()
    _, first = step(state, batch, 0, HPARAMS)
    changed = jax.tree.map(lambda x: x * 0.5, HPARAMS)._replace(
        total_steps=7, views=(compose.AugmentParams(flip=1.0, solarize=1.0), HPARAMS.views[1])
    )
    changed = tiny_numbers.with_numbers(changed, total_steps=7, warmup_steps=1)
    _, second = step(state, batch, 1, changed)
    assert step._cache_size() == max(before, 1)
    assert float(first["loss"]) != float(second["loss"])


@pytest.mark.parametrize(
    "poison",
    [pytest.param("learning_rate", marks=[pytest.mark.slow, pytest.mark.ci]), "online_params"],
)
def test_a_step_that_is_not_finite_changes_nothing_and_no_later_one_does(poison):
    state, batch = make_state(), make_batch()
    # Of the types that the other tests give: one compiled step serves all.
    hparams = HPARAMS
    if poison == "learning_rate":
        hparams = tiny_numbers.with_numbers(HPARAMS, peak_learning_rate=float("inf"))
    else:
        state.online_params["classifier"]["b"] = np.full(6, np.nan, np.float32)
    state = state._replace(step=jnp.int32(3))
    frozen, logs = single_step()(state, batch, 0, hparams)
    assert not logs["finite"]
    assert not frozen.finite
    assert int(frozen.step) == 3
    for field in ("online_params", "online_state", "target_params", "target_state", "slots"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, field), getattr(frozen, field))
    still, logs = single_step()(frozen, batch, 0, HPARAMS)
    assert not still.finite
    assert int(still.step) == 3


def test_collapse_statistics_and_norms_of_figure_7():
    state, batch = make_state(), make_batch()
    _, logs = single_step()(state, batch, 0, HPARAMS)
    key = keys.named_key(0, "augment")
    embeddings, projections = [], []
    online_state = state.online_state
    for v, params in enumerate(HPARAMS.views, start=1):
        view = compose.make_views(batch[f"view{v}"], batch["ids"], batch["epochs"], key, v, params)
        out, online_state = forward()(state.online_params, online_state, view)
        embeddings.append(np.asarray(out["embedding"], np.float64))
        projections.append(np.asarray(out["projection"], np.float64))
    for name, values in (("embedding_norm", embeddings), ("projection_norm", projections)):
        expected = np.mean([np.linalg.norm(v, axis=1).mean() for v in values])
        np.testing.assert_allclose(logs[name], expected, rtol=1e-4)
    unit = np.concatenate([p / np.linalg.norm(p, axis=1, keepdims=True) for p in projections])
    np.testing.assert_allclose(
        logs["projection_std"], np.sqrt(6) * unit.std(axis=0).mean(), rtol=1e-3
    )


@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_embeddings_of_the_first_images_are_among_the_logs(accumulate, monkeypatch):
    """Those of both views in training mode; of every micro-batch, the same number."""
    monkeypatch.setattr(update, "NUM_EMBEDDINGS", 4)
    batch = make_batch(8)
    if accumulate > 1:
        batch = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)
    state = make_state()
    _, logs = jax.jit(make_step())(state, batch, 0, HPARAMS)
    first, second = (logs[name] for name in update.EMBEDDINGS)
    assert first.shape == second.shape == (4, 4)
    if accumulate > 1:
        return
    key = keys.named_key(0, "augment")
    bn = state.online_state
    for view, embeddings in enumerate((first, second), start=1):
        crops, params = batch[f"view{view}"], HPARAMS.views[view - 1]
        views = compose.make_views(crops, batch["ids"], batch["epochs"], key, view, params)
        outputs, bn = forward()(state.online_params, bn, views)
        np.testing.assert_allclose(outputs["embedding"][:4], embeddings, rtol=1e-4, atol=1e-5)
