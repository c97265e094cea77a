"""The table of checked keys."""

import math

import pytest

from byol_jax.checks import (
    PROBABILITY,
    SEED,
    above,
    at_least,
    check_given,
    check_keys,
    each,
    one_of,
    within,
)
from byol_jax.errors import UserError


@pytest.mark.parametrize(
    ("rule", "allowed", "refused"),
    [
        (at_least(1), (1, 2.5), (0, -1, math.nan, math.inf)),
        (above(0), (1e-9, 1e38), (0, -1, math.nan, math.inf)),
        (within(0, 9), (0, 9), (-0.1, 9.1, math.nan)),
        (one_of(["ema", "online"]), ("ema", "online"), ("emma", "", 3)),
        (PROBABILITY, (0, 1), (-0.1, 1.1)),
        (SEED, (0, 2**31 - 1), (-1, 2**31)),
    ],
)
def test_rules(rule, allowed, refused) -> None:
    for value in allowed:
        check_keys({"a": {"b": value}}, {"a.b": rule})
    for value in refused:
        with pytest.raises(UserError, match=rf"config\.a\.b={value!r} must be"):
            check_keys({"a": {"b": value}}, {"a.b": rule})


def test_an_open_key_is_allowed() -> None:
    check_keys({"a": None}, {"a": at_least(1)})


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(UserError, match=r"one of: ema, online \(did you mean 'online'\?\)"):
        check_keys({"target": "onlin"}, {"target": one_of(["ema", "online"])})


@pytest.mark.parametrize(
    ("rule", "allowed", "refused"),
    [
        (each(above(0)), ((1,), (0.1, 2), [0.5]), ((), (0.1, 0), ("nan",), (math.nan,), (True,))),
        (each(at_least(0), may_be_empty=True), ((), (0, 1e-6)), ((-1,), ("(nan,)",), (math.inf,))),
    ],
)
def test_rules_of_sweeps(rule, allowed, refused) -> None:
    for values in allowed:
        check_keys({"a": values}, {"a": rule})
    for values in refused:
        with pytest.raises(UserError, match=r"config\.a="):
            check_keys({"a": values}, {"a": rule})


@pytest.mark.parametrize(
    ("config", "key", "by"),
    [
        ({"num_epochs": 1, "num_steps": 5}, "num_epochs", "num_steps"),
        ({"num_epochs": 1, "sweep_epochs": (30, 50)}, "num_epochs", "sweep_epochs"),
        ({"sweep_epochs": (1,), "num_steps": 5}, "sweep_epochs", "num_steps"),
        ({"weight_decay": 0.1, "sweep_weight_decays": (0, 1)}, "weight_decay", "weight_decays"),
        ({"magnitude": 9, "augmentation": "spatial"}, "magnitude", "augmentation"),
        ({"view": {"blur": 1}, "augmentation": "spatial"}, "view.blur", "augmentation"),
        ({"subset_seed": 1, "fraction": 1}, "subset_seed", "fraction"),
        ({"encoder": {"depth": "18"}, "checkpoint": "runs/x"}, "encoder.depth", "checkpoint"),
    ],
)
def test_a_key_without_effect_is_refused_where_the_user_gave_it(config, key, by) -> None:
    with pytest.raises(UserError, match=rf"config\.{key}=.*{by}="):
        check_given(config, [key])
    check_given(config, [])  # a page may have both


def test_a_key_has_an_effect_once_the_other_is_unset() -> None:
    check_given({"num_epochs": 1, "num_steps": None, "sweep_epochs": ()}, ["num_epochs"])
    check_given({"num_epochs": None, "num_steps": 5}, ["num_epochs", "num_steps"])
    check_given({"magnitude": 9, "augmentation": "randaugment"}, ["magnitude"])
