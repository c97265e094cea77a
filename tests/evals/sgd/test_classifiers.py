"""Classifiers on an encoder, against loops and numbers worked out by hand."""

import functools
import itertools
import math
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_runs
from byol_jax import keys
from byol_jax.augment import byol, compose, randaugment
from byol_jax.evals.sgd import classifiers
from byol_jax.networks import siamese
from byol_jax.runtime import spmd

CLASSES, FEATURES = 4, 3


def hyperparameters(**changes: Any) -> classifiers.Hyperparameters:
    """A constant rate of 0.5 without regularisation."""
    values: dict[str, Any] = {
        "learning_rates": jnp.array([0.5]),
        "warmup_steps": 0,
        "total_steps": 10**9,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "label_smoothing": 0.0,
        "logit_clip": 0.0,
        "logit_penalty": 0.0,
        "view": compose.AugmentParams(),
        "magnitude": 9.0,
    }
    return classifiers.Hyperparameters(**values | changes)


def small_encoder() -> tuple[hk.TransformedWithState, classifiers.Encoder]:
    """e = (x w + b) scale + offset of the three numbers x of a 1x1 image, and a moving average."""

    def apply(
        params: Any, state: Any, rng: None, views: jax.Array, is_training: bool
    ) -> tuple[dict[str, jax.Array], Any]:
        hidden = views[:, 0, 0] @ params["conv"]["w"] + params["conv"]["b"]
        moved = {"bn": {"average": state["bn"]["average"] + jnp.mean(hidden, axis=0)}}
        embedding = hidden * params["bn"]["scale"] + params["bn"]["offset"]
        return {"embedding": embedding}, moved if is_training else state

    rng = np.random.default_rng(5)
    params = {
        "conv": {"w": rng.normal(size=(3, 3)), "b": rng.normal(size=3)},
        "bn": {"scale": rng.normal(size=3), "offset": rng.normal(size=3)},
    }
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    return hk.TransformedWithState(None, apply), (params, {"bn": {"average": jnp.zeros(3)}})


def small_heads(count: int = 1) -> classifiers.Heads:
    rng = np.random.default_rng(6)
    return {
        "w": jnp.asarray(rng.normal(size=(1, FEATURES, CLASSES)).repeat(count, 0), jnp.float32),
        "b": jnp.asarray(rng.normal(size=(1, CLASSES)).repeat(count, 0), jnp.float32),
    }


def small_batch(count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    views = rng.normal(size=(count, 1, 1, 3)).astype(np.float32)
    return views, (np.arange(count) % CLASSES).astype(np.int32)


def test_clip_logits() -> None:
    """tclip(x) = 20 tanh(x / 20); x itself without alpha."""
    logits = np.array([-1000.0, -20.0, -1.0, 0.0, 3.0, 20.0, 1000.0], np.float32)
    expected = [20 * math.tanh(x / 20) for x in logits]
    np.testing.assert_allclose(classifiers.clip_logits(logits, 20.0), expected, rtol=1e-6)
    np.testing.assert_array_equal(classifiers.clip_logits(logits, 0.0), logits)
    gradient = jax.grad(lambda x: jnp.sum(classifiers.clip_logits(x, 0.0)))(logits)
    np.testing.assert_array_equal(gradient, np.ones(7))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_cross_entropy(smoothing: float) -> None:
    logits = np.random.default_rng(0).normal(size=(2, 5, CLASSES)).astype(np.float32)
    labels = np.array([3, 0, -1, 2, 0], np.int32)
    result, labelled = classifiers.cross_entropy(
        jnp.asarray(logits), jnp.asarray(labels), smoothing
    )
    assert result.shape == (2, 5)
    np.testing.assert_array_equal(labelled, [True, True, False, True, True])
    for r, b in itertools.product(range(2), np.flatnonzero(labels >= 0)):
        log_sum = math.log(sum(math.exp(x) for x in logits[r, b]))
        expected = 0.0
        for k in range(CLASSES):
            # Szegedy et al.: (1 - s) on the class, s / K on each.
            target = (1 - smoothing) * (k == labels[b]) + smoothing / CLASSES
            expected -= target * (float(logits[r, b, k]) - log_sum)
        assert result[r, b] == pytest.approx(expected, rel=1e-5)


def test_several_labels_are_a_sigmoid_each() -> None:
    logits = np.random.default_rng(1).normal(size=(2, 3, CLASSES)).astype(np.float32)
    labels = np.array([[1, 0, -1, 1], [-1, -1, -1, -1], [0, 0, 0, 1]], np.int32)
    result, labelled = classifiers.cross_entropy(jnp.asarray(logits), jnp.asarray(labels), 0.0)
    np.testing.assert_array_equal(labelled, [True, False, True])
    for r, b in itertools.product(range(2), range(3)):
        expected = 0.0
        for k in range(CLASSES):
            if labels[b, k] >= 0:
                probability = 1 / (1 + math.exp(-logits[r, b, k]))
                expected -= math.log(probability if labels[b, k] else 1 - probability)
        assert result[r, b] == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(("alpha", "beta"), [(20.0, 1e-2), (2.0, 0.5), (0.0, 0.5)])
def test_loss_of_table_7(alpha: float, beta: float) -> None:
    """cross_entropy(tclip(x), y) + beta average(tclip(x)^2) (BYOL App. D.1)."""
    network, encoder = small_encoder()
    heads, (views, labels) = small_heads(), small_batch()
    hparams = hyperparameters(logit_clip=alpha, logit_penalty=beta)
    loss, (_, logs) = classifiers.losses(
        ({}, heads), encoder, views, labels, hparams, network=network, frozen=True, axis=None
    )
    embedding = network.apply(*encoder, None, views, False)[0]["embedding"]
    logits = np.float64(embedding) @ np.float64(heads["w"][0]) + np.float64(heads["b"][0])
    expected, right = [], []
    for row, label in zip(logits, labels, strict=True):
        clipped = [alpha * math.tanh(x / alpha) if alpha else x for x in row]
        entropy = math.log(sum(math.exp(x) for x in clipped)) - clipped[label]
        expected.append(entropy + beta * sum(x**2 for x in clipped) / CLASSES)
        right.append(max(range(CLASSES), key=row.__getitem__) == label)
    assert loss == pytest.approx(np.mean(expected), rel=1e-5)
    assert logs["loss"] == pytest.approx(np.mean(expected), rel=1e-5)
    assert logs["top1"] == pytest.approx(100 * np.mean(right))


def by_hand(
    views: np.ndarray, labels: np.ndarray, rates: list[float], momentum: float, decay: float
) -> dict[str, np.ndarray]:
    """Nesterov steps of the small network in float64, its gradient written out."""
    _, (params, _) = small_encoder()
    flat = {f"{module}/{leaf}": v for module, d in params.items() for leaf, v in d.items()}
    flat |= {f"head/{leaf}": v[0] for leaf, v in small_heads().items()}
    p = {name: np.float64(v) for name, v in flat.items()}
    mu = {name: np.zeros_like(v) for name, v in p.items()}
    x, count = np.float64(views[:, 0, 0]), len(views)
    for rate in rates:
        hidden = x @ p["conv/w"] + p["conv/b"]
        embedding = hidden * p["bn/scale"] + p["bn/offset"]
        logits = embedding @ p["head/w"] + p["head/b"]
        softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        d_logits = (softmax - np.eye(CLASSES)[labels]) / count
        d_embedding = d_logits @ p["head/w"].T
        d_hidden = d_embedding * p["bn/scale"]
        gradient = {
            "head/w": embedding.T @ d_logits + decay * p["head/w"],
            "head/b": d_logits.sum(axis=0),
            "bn/scale": (d_embedding * hidden).sum(axis=0),
            "bn/offset": d_embedding.sum(axis=0),
            "conv/w": x.T @ d_hidden + decay * p["conv/w"],
            "conv/b": d_hidden.sum(axis=0),
        }
        for name in p:
            mu[name] = momentum * mu[name] + gradient[name]
            p[name] = p[name] - rate * (gradient[name] + momentum * mu[name])
    return p


def test_nesterov_by_hand() -> None:
    """Weight decay on `w` alone; two steps of warm-up, then half a cosine of four steps."""
    network, encoder = small_encoder()
    views, labels = small_batch()
    hparams = hyperparameters(warmup_steps=2, total_steps=6, weight_decay=0.1)
    state = classifiers.init(small_heads(), encoder)
    seen = []
    step = jax.jit(functools.partial(classifiers.step, network=network))
    for _ in range(4):
        state, logs = step(state, views, labels, hparams, ({}, {}))
        seen.append(float(logs["learning_rate"]))
    rates = [0.0, 0.25, 0.5, 0.5 * (1 + math.cos(math.pi / 4)) / 2]
    assert seen == pytest.approx(rates)
    expected = by_hand(views, labels, rates, momentum=0.9, decay=0.1)
    result = {f"{m}/{leaf}": v for m, d in state.encoder[0].items() for leaf, v in d.items()}
    result |= {f"head/{leaf}": v[0] for leaf, v in state.heads.items()}
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], value, rtol=2e-5, atol=1e-6, err_msg=name)
    assert state.step == 4 and state.finite
    # Fine-tuning moves the averages of BatchNorm.
    assert np.all(state.encoder[1]["bn"]["average"] != 0)


def test_classifiers_do_not_mix() -> None:
    """Three rates in one pass are three trainings, up to the rounding of other matrix products."""
    network, encoder = small_encoder()
    views, labels = small_batch()
    rates = [0.1, 0.5, 2.0]

    def train(rates: list[float]) -> classifiers.Heads:
        state = classifiers.init(small_heads(len(rates)))
        hparams = hyperparameters(
            learning_rates=jnp.array(rates), total_steps=6, warmup_steps=1, weight_decay=0.01
        )
        step = jax.jit(functools.partial(classifiers.step, network=network))
        for _ in range(5):
            state, _ = step(state, views, labels, hparams, encoder)
        return state.heads

    together = train(rates)
    for r, rate in enumerate(rates):
        for leaf, alone in train([rate]).items():
            np.testing.assert_allclose(together[leaf][r], alone[0], rtol=1e-5, atol=1e-6)
    assert not np.allclose(together["w"][0], together["w"][2], rtol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("is_frozen", "several"), [(True, False), (False, True)])
def test_missing_labels_weigh_nothing_on_any_number_of_devices(
    is_frozen: bool, several: bool
) -> None:
    """One of the first device's examples has a label and three of the second's."""
    network, encoder = small_encoder()
    views, labels = small_batch()
    labelled = np.array([0, 1, 0, 0, 1, 0, 1, 1], bool)
    if several:
        labels = np.eye(CLASSES, dtype=np.int32)[labels]
    labels = np.where(labelled.reshape(-1, *[1] * (labels.ndim - 1)), labels, -1)
    hparams = hyperparameters(logit_penalty=0.1)
    state = classifiers.init(small_heads(), None if is_frozen else encoder)
    frozen = encoder if is_frozen else ({}, {})
    step = functools.partial(classifiers.step, network=network)
    single = jax.jit(step)

    devices = jax.local_devices()[:2]
    assert len(devices) == 2
    mapped = spmd.pmap(
        functools.partial(step, axis=spmd.AXIS),
        in_axes=(0, 0, 0, None, None),
        devices=devices,
    )
    batch = spmd.shard((views, labels), devices=devices)
    two = spmd.to_host(mapped(spmd.replicate(state, devices), *batch, hparams, frozen))
    one = single(state, views, labels, hparams, frozen)
    # The labelled ones alone.
    few = single(state, views[labelled], labels[labelled], hparams, frozen)
    for other in (one, few):
        result, reference = (
            tuple(x) if is_frozen else (x[0].heads, x[0].encoder[0], x[1]) for x in (two, other)
        )
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), result, reference
        )


def test_a_batch_without_labels_moves_nothing() -> None:
    network, encoder = small_encoder()
    views, labels = small_batch()
    state = classifiers.init(small_heads())
    step = jax.jit(functools.partial(classifiers.step, network=network))
    new, logs = step(state, views, np.full_like(labels, -1), hyperparameters(), encoder)
    assert new.finite and logs["loss"] == 0
    jax.tree.map(np.testing.assert_array_equal, new.heads, state.heads)


TINY = siamese.encoder(siamese.NetworkSpec(depth="tiny", width=0.5, stem="small"))


@functools.partial(jax.jit, static_argnums=2)
def embed(encoder: classifiers.Encoder, views: jax.Array, is_training: bool) -> jax.Array:
    return TINY.apply(*encoder, None, views, is_training)[0]["embedding"]


@pytest.fixture(scope="module")
def tiny() -> classifiers.Encoder:
    """The encoder of the tests' runs, its BatchNorm averages anything but those of a batch."""
    init = functools.partial(TINY.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)), True)
    rng = np.random.default_rng(4)

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape) / np.sqrt(leaf.size), leaf.dtype)

    return jax.tree.map(fill, jax.eval_shape(init))


def tiny_heads(encoder: classifiers.Encoder, count: int, classes: int) -> classifiers.Heads:
    shape = jax.eval_shape(lambda e: embed(e, jnp.zeros((1, 8, 8, 3)), False), encoder).shape
    return classifiers.init_heads(0, count, shape[-1], classes)


def test_a_frozen_encoder_uses_its_averages_and_is_not_in_the_state(
    tiny: classifiers.Encoder,
) -> None:
    heads = tiny_heads(tiny, 2, 3)
    state = classifiers.init(heads)
    assert state.encoder == ({}, {})
    views = np.random.default_rng(3).normal(size=(6, 8, 8, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 0, 1, 2], np.int32)
    hparams = hyperparameters(learning_rates=jnp.array([0.5, 0.1]))
    step = jax.jit(functools.partial(classifiers.step, network=TINY))
    new, logs = step(state, views, labels, hparams, tiny)
    assert new.encoder == ({}, {})
    assert not np.array_equal(new.heads["b"], state.heads["b"])
    logits = classifiers.apply_heads(heads, embed(tiny, views, False))
    expected = np.mean(classifiers.cross_entropy(logits, labels, 0.0)[0], axis=-1)
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)
    # With a batch's own statistics the loss is another.
    logits = classifiers.apply_heads(heads, embed(tiny, views, True))
    other = np.mean(classifiers.cross_entropy(logits, labels, 0.0)[0], axis=-1)
    assert not np.allclose(other, expected, rtol=1e-3)


@pytest.mark.parametrize("is_frozen", [True, False])
@pytest.mark.parametrize("cause", ["loss", "update"])
def test_what_is_not_finite_changes_nothing_ever_after(is_frozen: bool, cause: str) -> None:
    network, encoder = small_encoder()
    views, labels = small_batch()
    frozen = encoder if is_frozen else ({}, {})
    step = jax.jit(functools.partial(classifiers.step, network=network))
    start = classifiers.init(small_heads(), None if is_frozen else encoder)
    good, logs = step(start, views, labels, hyperparameters(), frozen)
    assert logs["finite"] and good.finite
    if cause == "loss":
        bad, logs = step(good, views * np.nan, labels, hyperparameters(), frozen)
    else:
        bad, logs = step(good, views, labels, hyperparameters(weight_decay=3e38), frozen)
        assert np.isfinite(logs["loss"]).all()
    assert not logs["finite"] and not bad.finite
    later, logs = step(bad, views, labels, hyperparameters(), frozen)
    assert not logs["finite"] and not later.finite
    for state in (bad, later):
        jax.tree.map(np.testing.assert_array_equal, state._replace(finite=good.finite), good)


def test_a_classifier_that_diverges_stands_still_and_the_others_go_on() -> None:
    """As if it were not there; its momentum stands still, too."""
    network, encoder = small_encoder()
    views, labels = small_batch()
    step = jax.jit(functools.partial(classifiers.step, network=network))
    three, two = (
        hyperparameters(learning_rates=jnp.array(rates)) for rates in ([0.1, 3e38, 0.2], [0.1, 0.2])
    )
    state, alone = classifiers.init(small_heads(3)), classifiers.init(small_heads(2))
    states = [state]
    for i in range(3):
        state, logs = step(state, views, labels, three, encoder)
        alone, expected = step(alone, views, labels, two, encoder)
        assert logs["finite"] and state.finite and state.step == i + 1
        np.testing.assert_allclose(logs["loss"][jnp.array([0, 2])], expected["loss"], rtol=1e-6)
        states.append(state)
    assert state.healthy.tolist() == [True, False, True]
    assert np.isnan(logs["loss"][1])
    for name, leaf in alone.heads.items():
        others = state.heads[name][jnp.array([0, 2])]
        np.testing.assert_allclose(others, leaf, rtol=1e-6, atol=1e-7)
    last_good = next(s for s in reversed(states) if s.healthy[1])
    kept = [(s.heads, s.opt_state.trace[1]) for s in (state, last_good)]
    for stopped, good in zip(*map(jax.tree.leaves, kept), strict=True):
        np.testing.assert_array_equal(stopped[1], good[1])


def test_init_heads_are_equal_draws_of_a_truncated_normal() -> None:
    heads = classifiers.init_heads(3, 4, 400, 50)
    assert heads["w"].shape == (4, 400, 50) and heads["b"].shape == (4, 50)
    np.testing.assert_array_equal(heads["b"], np.zeros((4, 50)))
    for r in range(4):
        np.testing.assert_array_equal(heads["w"][r], heads["w"][0])
    scaled = np.asarray(heads["w"][0]) * 20
    assert np.abs(scaled).max() <= 2
    # The standard deviation of a normal cut at two is 0.8796; of 20,000 draws to within 0.02.
    assert scaled.std() == pytest.approx(0.8796, abs=0.02)
    other = classifiers.init_heads(4, 4, 400, 50)
    assert not np.allclose(other["w"], heads["w"])


def test_predict_is_the_heads_on_evaluation_crops(tiny: classifiers.Encoder) -> None:
    crops = tiny_runs.images(5)
    views = byol.normalize(jnp.asarray(crops, jnp.float32) / 255)
    embedding = np.float64(embed(tiny, views, False))
    rng = np.random.default_rng(8)
    heads = {"w": rng.normal(size=(2, embedding.shape[1], 3)), "b": rng.normal(size=(2, 3))}
    result = jax.jit(functools.partial(classifiers.predict, network=TINY))(crops, tiny, heads)
    assert result.shape == (5, 2, 3)
    for r in range(2):
        expected = embedding @ heads["w"][r] + heads["b"][r]
        np.testing.assert_allclose(result[:, r], expected, rtol=1e-4, atol=1e-5)


# Augmentations.

IDS, EPOCHS = np.arange(40, dtype=np.int32) + 7, np.full(40, 3, np.int32)


def views_of(name: str, rows: Any = slice(None), **changes: Any) -> np.ndarray:
    """Normalised views of 40 images, or of some rows."""
    make = jax.jit(classifiers.AUGMENTATIONS[name])
    epochs = changes.pop("epochs", EPOCHS)
    hparams = hyperparameters(**changes)
    crops = tiny_runs.images(40)
    return np.asarray(
        make(crops[rows], IDS[rows], epochs[rows], keys.named_key(1, "augment"), hparams)
    )


def test_spatial_views_are_flips_alone() -> None:
    plain = np.asarray(byol.normalize(tiny_runs.images(40).astype(np.float32) / 255))
    mirrored = plain[:, :, ::-1]
    result = views_of("spatial")
    close = functools.partial(np.allclose, atol=1e-5)
    is_plain = np.array([close(a, b) for a, b in zip(result, plain, strict=True)])
    is_mirrored = np.array([close(a, b) for a, b in zip(result, mirrored, strict=True)])
    assert np.all(is_plain ^ is_mirrored)
    assert 8 < is_mirrored.sum() < 32  # 20 +- 4 standard deviations
    for flip, expected in ((0.0, plain), (1.0, mirrored)):
        flipped = views_of("spatial", view=compose.AugmentParams(flip=flip))
        np.testing.assert_allclose(flipped, expected, atol=1e-5)


def test_pretrain_views_are_those_of_the_first_view() -> None:
    """The same operations, so that nothing has to be compiled."""
    arguments = (tiny_runs.images(40), IDS, EPOCHS, keys.named_key(1, "augment"))
    result = jax.make_jaxpr(classifiers.pretrain_views)(*arguments, hyperparameters())

    def made(view: int) -> str:
        def make_views(*given: Any) -> jax.Array:
            *batch, hparams = given
            return compose.make_views(*batch, view, hparams.view)

        return str(jax.make_jaxpr(make_views)(*arguments, hyperparameters()))

    assert str(result) == made(1) != made(2)


def test_randaugment_views_depend_on_id_and_epoch_alone() -> None:
    result = views_of("randaugment")
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(views_of("randaugment", order), result[order])
    later = views_of("randaugment", epochs=EPOCHS + 1)
    assert np.mean([not np.allclose(a, b) for a, b in zip(result, later, strict=True)]) > 0.7


@pytest.mark.slow
def test_randaugment_views_are_flipped_and_augmented() -> None:
    result = views_of("randaugment")
    key = keys.named_key(1, "augment")
    one = jax.jit(
        lambda image, key: randaugment.randaugment(
            byol.random_flip(image, key, 0.5), key, magnitude=9.0, num_layers=2
        )
    )
    for i, image in enumerate(tiny_runs.images(40)):
        expected = one(byol.to_float(image), compose.example_key(key, IDS[i], EPOCHS[i], 1))
        np.testing.assert_allclose(result[i], byol.normalize(expected), atol=1e-5)


def test_train_step_is_a_step_on_augmented_views() -> None:
    network, encoder = small_encoder()
    batch = {
        "view1": tiny_runs.images(6),
        "labels": np.arange(6, dtype=np.int32) % CLASSES,
        "ids": IDS[:6],
        "epochs": EPOCHS[:6],
    }
    hparams = hyperparameters()
    state = classifiers.init(small_heads())
    train_step = jax.jit(functools.partial(classifiers.train_step, network=network))
    step = jax.jit(functools.partial(classifiers.step, network=network))
    results = []
    for seed in (0, 5):
        result, _ = train_step(state, batch, seed, hparams, encoder)
        views = classifiers.spatial_views(
            batch["view1"], batch["ids"], batch["epochs"], keys.named_key(seed, "augment"), hparams
        )
        reference, _ = step(state, views, batch["labels"], hparams, encoder)
        for leaf in ("w", "b"):
            np.testing.assert_allclose(
                result.heads[leaf], reference.heads[leaf], rtol=1e-5, atol=1e-6
            )
        results.append(result.heads["w"])
    assert not np.allclose(*results)


@pytest.mark.slow
@pytest.mark.parametrize("augmentation", classifiers.AUGMENTATIONS)
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("is_frozen", [False, True])
def test_every_kind_of_step_keeps_the_shapes_of_its_state(
    tiny: classifiers.Encoder, augmentation: str, several: bool, is_frozen: bool
) -> None:
    """What a config can ask for, on paper; a state that changed its types would compile again."""
    batch = {
        "view1": np.zeros((4, 8, 8, 3), np.uint8),
        "labels": np.zeros((4, 5) if several else 4, np.int32),
        "ids": np.zeros(4, np.int32),
        "epochs": np.zeros(4, np.int32),
    }
    count = 3 if is_frozen else 1
    state = classifiers.init(tiny_heads(tiny, count, 5), None if is_frozen else tiny)
    step = functools.partial(classifiers.train_step, network=TINY, augmentation=augmentation)
    hparams = hyperparameters(learning_rates=jnp.ones(count))
    frozen = tiny if is_frozen else ({}, {})
    new, logs = jax.eval_shape(step, state, batch, 0, hparams, frozen)
    before = jax.tree.map(lambda x: (x.shape, x.dtype), jax.eval_shape(lambda x: x, state))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == before
    assert logs["loss"].shape == (count,)
    assert ("top1" in logs) == (not several)
