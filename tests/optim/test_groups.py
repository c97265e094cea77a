"""Groups of the optimiser: each kind against plain numpy in float64, and rules per group."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.optim import groups
from byol_jax.optim.groups import ALL, WEIGHTS, Group, Groups, Numbers

KINDS = ("lars", "larc", "sgd", "adam")
RNG = np.random.default_rng(0)
SHAPES = {
    "online_params": {
        "res_net/~/conv": {"w": (3, 4)},
        "res_net/~/initial_batchnorm": {"scale": (4,), "offset": (4,)},
        "projector/linear": {"w": (4, 2), "b": (2,)},
        "projector/batch_norm": {"scale": (2,)},
        "predictor/linear": {"w": (2, 2)},
        "dense/linear": {"w": (4, 2)},
        "classifier": {"w": (4, 3), "b": (3,)},
    },
    "objective_params": {"prototypes": {"w": (2, 5)}},
}


def arrays():
    """Random arrays of the shapes above."""
    return jax.tree.map(
        lambda shape: RNG.normal(size=shape), SHAPES, is_leaf=lambda x: isinstance(x, tuple)
    )


PARAMS = arrays()
GRADIENTS = [arrays() for _ in range(3)]
RATES = (1.0, 0.1, 2.0)
DECAY, TRUST, MOMENTUM = 0.3, 0.2, 0.9
NUMBERS = Numbers(1.0, 0, 10, DECAY, TRUST, MOMENTUM)
CONSTANT = Group(schedule="constant")


@functools.partial(jax.jit, static_argnums=0)
def step(table, numbers, index, gradients, slots, params):
    """One update; all numbers are traced."""
    rates = groups.rates(table, numbers, index)
    update = groups.Update(table, numbers, rates, index)
    return groups.apply(update, gradients, slots, params)


def train(table, numbers, params=PARAMS, gradients=GRADIENTS):
    """Parameters and slots after each step; `numbers` is a table, or a list of one per step."""
    slots, history = groups.init(table, params), []
    for index, gradient in enumerate(gradients):
        now = numbers[index] if isinstance(numbers, list) else numbers
        params, slots = step(table, now, index, gradient, slots, params)
        history.append((params, slots))
    return history


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def leaves(tree):
    return {name: np.asarray(value) for name, value in groups.named(tree).items()}


def is_weight(name):
    """Whether a parameter is neither a bias nor part of a normalisation (BYOL App. A)."""
    module, _, leaf = name.rpartition("/")
    return leaf != "b" and "norm" not in module


def naive_update(kind, p, g, slots, number, is_adapted, is_decayed):
    """The change of one array at step `number`, from 1, at a rate of 1. It updates `slots`."""
    norm = np.linalg.norm
    if kind == "adam":
        slots["first"] = MOMENTUM * slots["first"] + (1 - MOMENTUM) * g
        slots["second"] = 0.999 * slots["second"] + 0.001 * g**2
        first, second = (
            slots[slot] / (1 - decay**number)
            for slot, decay in (("first", MOMENTUM), ("second", 0.999))
        )
        return -(first / (np.sqrt(second) + 1e-8) + (DECAY * p if is_decayed else 0))
    u = g
    if kind == "larc" and is_adapted:
        ratio = TRUST * norm(p) / (norm(g) + DECAY * norm(p) + 1e-8)
        u = ratio * (g + DECAY * p)
    if kind in ("lars", "sgd") and is_decayed:
        u = g + DECAY * p
    if kind == "lars" and is_adapted:
        u = u * TRUST * norm(p) / norm(u)
    slots["first"] = MOMENTUM * slots["first"] + u
    return -slots["first"]


def naive(kind, adapted, decayed):
    """All parameters after three steps at three rates, one array after the other."""
    result = {}
    for name, value in leaves(PARAMS).items():
        p, slots = value, {"first": 0.0, "second": 0.0}
        is_adapted, is_decayed = (mask == ALL or is_weight(name) for mask in (adapted, decayed))
        for number, (gradient, rate) in enumerate(zip(GRADIENTS, RATES, strict=True), start=1):
            g = leaves(gradient)[name]
            p = p + rate * naive_update(kind, p, g, slots, number, is_adapted, is_decayed)
        result[name] = p
    return result


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("decayed", [ALL, WEIGHTS])
@pytest.mark.parametrize("adapted", [ALL, WEIGHTS])
@pytest.mark.parametrize("kind", KINDS)
def test_each_optimiser_against_plain_numpy(kind, adapted, decayed):
    table = groups.everywhere(Group(kind, "constant", adapted, decayed))
    numbers = [groups.everywhere(NUMBERS._replace(peak_learning_rate=rate)) for rate in RATES]
    params, _ = train(table, numbers)[-1]
    for name, expected in naive(kind, adapted, decayed).items():
        np.testing.assert_allclose(leaves(params)[name], expected, rtol=1e-9, err_msg=name)


# p = (3, 4) with g = (0.8, -0.6), weight decay 0.1 and trust coefficient 0.01:
# g + 0.1 p = (1.1, -0.2), |g + 0.1 p| = sqrt(1.25), |p| = 5, |g| = 1.
@pytest.mark.parametrize(
    ("kind", "rate", "weight", "bias"),
    [
        # The ratio is 0.01 * 5 / sqrt(1.25); times the rate it is 1.
        ("lars", 20 * 1.25**0.5, (3 - 1.1, 4 + 0.2), 2 - 20 * 1.25**0.5 * 0.5),
        # The ratio is 0.01 * 5 / (1 + 0.1 * 5) = 1 / 30; times the rate it is 1.
        ("larc", 30.0, (3 - 1.1, 4 + 0.2), 2 - 30 * 0.5),
        ("sgd", 10.0, (3 - 11, 4 + 2), 2 - 10 * 0.5),
        # With bias correction the first step is the sign of the gradient; decay is added to it.
        ("adam", 10.0, (3 - 10 - 3, 4 + 10 - 4), 2 - 10),
    ],
)
def test_first_step_by_hand(kind, rate, weight, bias):
    """The bias has neither trust ratio nor weight decay."""
    params = {"online_params": {"linear": {"w": jnp.array([3.0, 4.0]), "b": jnp.array([2.0])}}}
    gradient = {"online_params": {"linear": {"w": jnp.array([0.8, -0.6]), "b": jnp.array([0.5])}}}
    numbers = groups.everywhere(Numbers(rate, 0, 10, 0.1, 0.01, 0.9))
    table = groups.everywhere(Group(kind, "constant"))
    ((after, _),) = train(table, numbers, params, [gradient])
    np.testing.assert_allclose(after["online_params"]["linear"]["w"], weight, rtol=1e-5)
    np.testing.assert_allclose(after["online_params"]["linear"]["b"], [bias], rtol=1e-5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", KINDS)
def test_factors_scale_whole_heads_and_nothing_else(kind):
    """mu and lambda of Tables 21 and 22 scale updates, those of biases and BatchNorm included."""
    table = groups.everywhere(Group(kind, "constant"))
    numbers = groups.everywhere(NUMBERS)
    scaled = numbers._replace(
        projector=NUMBERS._replace(factor=2.0), predictor=NUMBERS._replace(factor=10.0)
    )
    (plain, plain_slots), *_ = train(table, numbers)
    (moved, moved_slots), *_ = train(table, scaled)
    before = leaves(PARAMS)
    for name, value in leaves(moved).items():
        factor = {"projector": 2.0, "predictor": 10.0}.get(groups.role_of(name), 1.0)
        expected = before[name] + factor * (leaves(plain)[name] - before[name])
        np.testing.assert_allclose(value, expected, rtol=1e-12, err_msg=name)
    # The factor applies after the momentum: slots do not depend on it.
    jax.tree.map(np.testing.assert_array_equal, moved_slots, plain_slots)


def test_rates_of_groups_by_hand():
    """A constant rate beside warm-up and cosine, each with its factor."""
    table = groups.everywhere(Group())._replace(predictor=CONSTANT)
    cosine = NUMBERS._replace(peak_learning_rate=2.0, warmup_steps=4, total_steps=12)
    numbers = groups.everywhere(cosine)._replace(
        projector=cosine._replace(factor=3.0),
        predictor=cosine._replace(factor=0.5),
        probe=cosine._replace(peak_learning_rate=8.0, warmup_steps=0, total_steps=16),
    )
    for step_index, trunk, probe in ((0, 0.0, 8.0), (2, 1.0, None), (8, 1.0, 4.0), (12, 0.0, None)):
        rates = groups.rates(table, numbers, jnp.asarray(step_index))
        np.testing.assert_allclose(rates.trunk, trunk, atol=1e-6)
        np.testing.assert_allclose(rates.projector, 3 * trunk, atol=1e-6)
        np.testing.assert_allclose(rates.predictor, 0.5 * 2.0)
        if probe is not None:
            np.testing.assert_allclose(rates.probe, probe, rtol=1e-6)


@pytest.mark.usefixtures("float64")
def test_groups_follow_their_own_schedules():
    sgd = NUMBERS._replace(total_steps=4, weight_decay=0.0, momentum=0.0)
    table = groups.everywhere(Group("sgd"))._replace(predictor=Group("sgd", "constant"))
    params, _ = train(table, groups.everywhere(sgd))[-1]
    # (cos(pi k / 4) + 1) / 2 at steps 0, 1 and 2.
    cosine = (1.0, (0.5**0.5 + 1) / 2, 0.5)
    for name, value in leaves(params).items():
        rates = (1.0, 1.0, 1.0) if groups.role_of(name) == "predictor" else cosine
        expected = leaves(PARAMS)[name]
        for rate, gradient in zip(rates, GRADIENTS, strict=True):
            expected = expected - rate * leaves(gradient)[name]
        np.testing.assert_allclose(value, expected, rtol=1e-12, err_msg=name)


def of_objective(tree, included=True):
    """Leaves of the objective's group by name, or those of all other groups."""
    return {name: x for name, x in leaves(tree).items() if ("objective" in name) is included}


def assert_equal_bits(tree, expected):
    jax.tree.map(np.testing.assert_array_equal, tree, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_group_keeps_every_bit_and_then_trains(kind):
    """Its first update equals that of an optimiser that starts at that step."""
    table = groups.everywhere(Group(kind, "constant"))
    released_at = {
        first: groups.everywhere(NUMBERS)._replace(objective=NUMBERS._replace(frozen_until=first))
        for first in (0, 2)
    }
    params, gradients = jax.tree.map(jnp.float32, (PARAMS, GRADIENTS))
    frozen = train(table, released_at[2], params, gradients)
    for state, free in zip(frozen, train(table, released_at[0], params, gradients), strict=True):
        assert_equal_bits(of_objective(state, False), of_objective(free, False))
    start = of_objective((params, groups.init(table, params)))
    assert len(start) > 1
    for state in frozen[:2]:
        assert_equal_bits(of_objective(state), start)
    ((*fresh,),) = train(table, released_at[0], params, gradients[2:])
    assert_equal_bits(of_objective(frozen[2]), of_objective(tuple(fresh)))
    moved = of_objective(frozen[2])
    assert all(np.any(moved[name] != start[name]) for name in start)


def test_other_numbers_need_no_compilation():
    table = Groups(
        Group(), Group("larc"), Group("sgd", "constant"), CONSTANT, Group("adam"), CONSTANT
    )
    numbers = groups.everywhere(NUMBERS._replace(frozen_until=1))
    slots = groups.init(table, PARAMS)
    step(table, numbers, 0, GRADIENTS[0], slots, PARAMS)
    compiled = step._cache_size()
    for factor in (0.5, 3.0):
        other = jax.tree.map(lambda x, factor=factor: type(x)(factor * x), numbers)
        step(table, other, 7, GRADIENTS[1], slots, PARAMS)
    assert step._cache_size() == compiled


def test_slots_are_named_by_kind_and_parameter():
    table = groups.everywhere(Group())._replace(probe=Group("adam"))
    slots = groups.init(table, PARAMS)
    names = set(leaves(PARAMS))
    probe = {name for name in names if "classifier" in name}
    assert set(leaves(slots)) == (
        {f"momentum/{name}" for name in names - probe}
        | {f"{moment}/{name}" for moment in ("first_moment", "second_moment") for name in probe}
        | {"count/probe"}
    )
    assert "momentum/online_params/projector/linear/w" in leaves(slots)
    for name, slot in leaves(slots).items():
        np.testing.assert_array_equal(slot, 0)
        if name != "count/probe":
            assert slot.shape == leaves(PARAMS)[name.partition("/")[2]].shape
    (params, after), *_ = train(table, groups.everywhere(NUMBERS))
    assert jax.tree.structure(after) == jax.tree.structure(slots)
    assert jax.tree.structure(params) == jax.tree.structure(PARAMS)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("online_params/res_net50/~/initial_conv/w", "trunk"),
        ("online_params/res_net50/~/block_group_0/~/block_0/~/batchnorm_0/scale", "trunk"),
        ("online_params/projector/linear/b", "projector"),
        ("online_params/predictor/batch_norm/offset", "predictor"),
        ("online_params/dense/linear/w", "dense"),
        ("online_params/classifier/w", "probe"),
        ("objective_params/prototypes/w", "objective"),
        ("objective_params/projector", "objective"),
    ],
)
def test_roles(name, role):
    assert groups.role_of(name) == role


def test_an_unknown_optimiser_is_refused():
    with pytest.raises(ValueError, match="'rmsprop'"):
        groups.init(groups.everywhere(Group("rmsprop")), PARAMS)
