"""Every row of the ablation tables as a program: which ones there are, and that each trains."""

import functools

import jax
import numpy as np
import pytest

from byol_jax import prepare, update
from byol_jax.errors import UserError
from byol_jax.method import check, hyperparameters, method_of
from byol_jax.networks import siamese
from byol_jax.program import init_state
from byol_jax.runtime import spmd
from experiments import ablation_tables, ablations
from tiny_runs import images

ROWS = [row for rows in ablation_tables.TABLES.values() for row in rows]
BATCH = 8


def row_of(table, row, method=""):
    (only,) = [r for r in ablations.rows(table, method) if r.row == row]
    return only


def shrunk(row, base="byol"):
    """The config of a row with a tiny network and batch: the same kinds, targets and extras."""
    config = ablations.config_of(row, base)
    config.update(
        {
            "image_size": 8,
            "batch_size": BATCH,
            "accumulate": min(config.accumulate, 2),
            "network": {
                "depth": "tiny",
                "width": 0.5,
                "stem": "small",
                "projector": {"hidden_size": 16, "output_size": 8},
                "predictor": {"hidden_size": 16},
            },
            "optimizer": {"base_learning_rate": 4.0, "warmup_epochs": 0.0},
        }
    )
    return config


def compiled_of(config):
    return prepare.program_of(config, num_classes=2)


def hparams_of(config):
    return hyperparameters(config, num_examples=64, total_steps=10)


def program(config):
    """All that makes JAX compile another step: two configs that agree in it share one."""
    spec = siamese.make_spec(config.network.to_dict(), 2, spmd.AXIS)
    method = method_of(config)
    objective = method.objective
    hparams = hparams_of(config)
    return (
        spec,
        method._replace(objective=(objective.func, tuple(sorted(objective.keywords.items())))),
        jax.tree.structure(hparams),
        tuple(np.asarray(leaf).dtype.kind for leaf in jax.tree.leaves(hparams)),
        config.accumulate,
    )


@functools.cache
def program_of(row_index):
    return program(shrunk(ROWS[row_index]))


@functools.cache
def programs():
    """The first row of each program."""
    first = {}
    for i, row in enumerate(ROWS):
        first.setdefault(program_of(i), row)
    return first


def name_of(row):
    return f"{row.table}-{row.row}-{row.method}"


# The rows of each table whose program no row before them has; typed, so that a row whose program
# changes is noticed.
FIRST_ROWS = {
    "5a": (1, 2, 5),
    "5b": (1, 3, 4, 5),
    "14a": (1, 2, 3, 4, 6, 7, 8, 9),
    "16": (2, 8, 9),  # BYOL's seven, then SimCLR's
    "19": (4, 7),
    "20": (2, 3, 4),
    "G": (1, 2),
    "J.2": (1,),
    "simclr-1": (6,),
    "simclr-4": (1, 2, 3, 4, 5),
    "simclr-5": (5,),
    # crop, cutout, sobel, noise and rotate, alone and in pairs: color and blur are numbers.
    "simclr-figure5": (1, 2, 4, 5, 7, 9, 11, 12, 14, 18, 19, 21, 26, 28, 35),
    "simclr-figure8": (1, 2),
    "lecture-simsiam": (1, 2, 3),
    "lecture-moco": (1,),
}
PROGRAMS = [
    ablation_tables.TABLES[table][row - 1] for table, rows in FIRST_ROWS.items() for row in rows
]


def test_the_programs_are_those_of_the_first_rows():
    """Rows of a table differ in numbers, which are traced, wherever they can."""
    assert [name_of(row) for row in programs().values()] == [name_of(row) for row in PROGRAMS]


@pytest.mark.parametrize("base", ["cifar10", "digits"])
def test_a_row_is_one_program_on_every_base(base):
    for i, row in enumerate(ROWS):
        if row.method == "simsiam" and base == "cifar10":
            continue  # two layers of the projector in place of three
        assert program(shrunk(row, base)) == program_of(i), name_of(row)


@pytest.mark.slow
@pytest.mark.parametrize("base", ablations.BASES)
def test_the_rows_that_a_base_refuses(base, monkeypatch):
    """A sixty-fourth of the 64 digits is one image, which has no negatives."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    refused = set()
    for row in ROWS:
        try:
            check(ablations.config_of(row, base))
        except UserError:
            refused.add(name_of(row))
    assert refused == ({"16-7-simclr"} if base == "digits" else set())


# ---------------------------------------------------------------- steps


@pytest.fixture
def released():
    """Frees what a test has compiled: more than fifty steps fill a process's memory mappings."""
    yield
    jax.clear_caches()


def batch_of(config, seed=0):
    crops = images(BATCH, 8, seed)
    return {
        "view1": crops,
        "view2": crops if config.data.same_crop else images(BATCH, 8, seed + 100),
        "labels": (np.arange(BATCH) % 2).astype(np.int32),
        "ids": np.arange(BATCH, dtype=np.int32),
        "epochs": np.full(BATCH, seed, np.int32),
    }


def step_of(config, traced=None):
    """The step as the job maps it over devices, here one."""
    step = functools.partial(
        update.train_step,
        program=compiled_of(config),
    )

    def counted(*arguments):
        if traced is not None:
            traced.append(config.recipe)
        return step(*arguments)

    return spmd.pmap(counted, devices=jax.devices()[:1])


def initial_shapes(config):
    def init():
        return init_state(
            config.seed,
            compiled_of(config),
            prepare.sizes_of(config),
            target_init=config.target_init,
        )

    return jax.eval_shape(init)


def initial_of(config):
    """A state before step 0, filled in here: drawing it by JAX compiles as long as a step does."""
    generator = np.random.default_rng(0)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        if name.endswith("['w']"):
            fan_in = np.prod(leaf.shape[:-1])
            return (generator.standard_normal(leaf.shape) / np.sqrt(fan_in)).astype(leaf.dtype)
        return np.full(leaf.shape, "scale" in name or "finite" in name, leaf.dtype)

    state = jax.tree_util.tree_map_with_path(fill, initial_shapes(config))
    if state.target_params:
        state = state._replace(target_params=jax.tree.map(np.copy, state.online_params))
    zero = functools.partial(jax.tree.map, np.zeros_like)
    return state._replace(slots=zero(state.slots))


def run(config, step=None):
    """The state before, the states after one and two steps, and their logs."""
    device = jax.devices()[:1]
    step = step or step_of(config)
    states, logs = [initial_of(config)], []
    seed = spmd.replicate(np.int32(config.seed), device)
    hparams = spmd.replicate(hparams_of(config), device)
    state = spmd.replicate(states[0], device)
    for number in range(2):
        batch = spmd.shard(batch_of(config, number), config.accumulate, device)
        state, log = step(state, batch, seed, hparams)
        states.append(spmd.to_host(state))
        host = spmd.to_host(log)
        logs.append({name: float(value) for name, value in host.items() if np.ndim(value) == 0})
    return states, logs


def weights(params):
    """The matrix or kernel of each layer."""
    return {name: layer["w"] for name, layer in params.items() if "w" in layer}


# CI traces every eighth.
SOME_IN_CI = [
    pytest.param(row, marks=[pytest.mark.ci] * (i % 8 == 0)) for i, row in enumerate(PROGRAMS)
]


def check_two_steps(config, states, logs):
    """What every row must do."""
    before, _, after = states
    assert int(after.step) == 2 and after.finite
    assert all(np.isfinite(value) for log in logs for value in log.values())
    old, new = weights(before.online_params), weights(after.online_params)
    assert {*old} == {*new} and "classifier" in new
    heads = {name.split("/")[0] for name in new} & {"projector", "predictor"}
    kinds = {name: config.network[name].kind for name in ("projector", "predictor")}
    assert heads == {name for name, kind in kinds.items() if kind in ("mlp", "linear")}
    still = {name for name in new if name.startswith("predictor")}
    if config.optimizer.predictor_rate:
        still = set()
    assert {name for name in new if np.array_equal(old[name], new[name])} == still
    if config.target in ("online", "stop_gradient"):
        assert not after.target_params and "tau" not in logs[0]
        return
    old, new = weights(before.target_params), weights(after.target_params)
    assert {*new} == {*weights(after.online_params)}
    still = {*new} if config.target == "constant" else still
    assert {name for name in new if np.array_equal(old[name], new[name])} == still
    assert ("tau" in logs[0]) == (config.target == "ema")


@pytest.mark.slow
@pytest.mark.parametrize("row", SOME_IN_CI, ids=name_of)
def test_every_program_can_be_traced(row):
    config = shrunk(row)
    state = initial_shapes(config)
    if config.accumulate > 1:
        shape = (1, config.accumulate, BATCH // config.accumulate)
    else:
        shape = (1, BATCH)
    batch = {
        name: jax.ShapeDtypeStruct(shape + leaf.shape[1:], leaf.dtype)
        for name, leaf in batch_of(config).items()
    }
    state, seed, hparams = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            (1, *np.shape(leaf)), jax.dtypes.canonicalize_dtype(getattr(leaf, "dtype", type(leaf)))
        ),
        (state, np.int32(0), hparams_of(config)),
    )
    after, logs = jax.eval_shape(step_of(config), state, batch, seed, hparams)
    jax.tree.map(
        lambda a, b: np.testing.assert_equal((a.shape, a.dtype), (b.shape, b.dtype)), state, after
    )
    assert {"loss", "probe_loss", "projection_std", "finite"} <= {*logs}
    assert ("tau" in logs) == (config.target == "ema")
    assert ("contrastive_entropy" in logs) == (config.objective.name in ("info_nce", "nt_xent"))


@pytest.mark.slow
@pytest.mark.usefixtures("released")
def test_rates_of_heads_and_decay_rates_are_numbers_of_one_program():
    """Tables 5a, 21 and 22 but for two rows of 5a: one compilation."""
    traced = []
    step = step_of(shrunk(row_of("21", 1)), traced)
    baseline = shrunk(row_of("21", 6))
    check_two_steps(baseline, *run(baseline, step))
    # lambda = 0: the predictor stays as it was drawn.
    still = shrunk(row_of("21", 1))
    check_two_steps(still, *run(still, step))
    # Hard copies: xi is theta after each step.
    copied = shrunk(row_of("22", 1))
    states, logs = run(copied, step)
    check_two_steps(copied, states, logs)
    assert [log["tau"] for log in logs] == [0, 0]
    for state in states[1:]:
        jax.tree.map(
            lambda xi, theta: np.testing.assert_allclose(xi, theta, rtol=1e-6, atol=1e-7),
            state.target_params,
            state.online_params,
        )
    # mu = 10 on the projector alone: ten times its first step.
    fast, _ = run(shrunk(row_of("22", 21)), step)
    for name, old in weights(states[0].online_params).items():
        factor = {"projector": 10, "predictor": 1}.get(name.split("/")[0], 1)
        moved = weights(states[1].online_params)[name] - old
        np.testing.assert_allclose(
            weights(fast[1].online_params)[name] - old, factor * moved, rtol=1e-2, atol=2e-6
        )
    assert len(traced) == 1

    # Table 5a: "In the stop gradient of online, tau = tau_base = 0 is kept constant".
    stopped = shrunk(row_of("5a", 5))
    states_stopped, logs_stopped = run(stopped)
    check_two_steps(stopped, states_stopped, logs_stopped)
    np.testing.assert_allclose(
        [log["loss"] for log in logs_stopped], [log["loss"] for log in logs], rtol=1e-4
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        states_stopped[1].online_params,
        states[1].online_params,
    )


# SimCLR with two micro-batches: of all programs the one that has least in common with BYOL's, whose
# steps other tests take.
HANDFUL = (row_of("16", 2, "simclr"),)


@pytest.mark.slow
@pytest.mark.usefixtures("released")
@pytest.mark.parametrize("row", HANDFUL, ids=name_of)
def test_different_rows_take_two_steps(row):
    config = shrunk(row)
    check_two_steps(config, *run(config))


@pytest.mark.slow
@pytest.mark.usefixtures("released")
@pytest.mark.parametrize("row", [row for row in PROGRAMS if row not in HANDFUL], ids=name_of)
def test_every_program_takes_two_steps(row):
    config = shrunk(row)
    check_two_steps(config, *run(config))
