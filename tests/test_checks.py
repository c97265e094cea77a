"""The table of checked keys."""

import math

import pytest

from byol_jax.checks import (
    NO_NUMBERS,
    PROBABILITY,
    SEED,
    above,
    at_least,
    check_keys,
    deciding,
    differing,
    one_of,
    within,
)
from byol_jax.errors import UserError
from experiments import base, classification


@pytest.mark.parametrize(
    ("rule", "allowed", "refused"),
    [
        (at_least(1), (1, 2.5), (0, -1, math.nan)),
        (above(0), (1e-9, math.inf), (0, -1, math.nan)),
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


def test_keys_that_change_no_number_are_keys_of_the_pages() -> None:
    """None is a misspelling."""
    keys = {*classification.get_config(), *base.get_config()}
    keys |= {f"data.{name}" for name in base.get_config().data}
    keys |= {f"evaluation.{name}" for name in base.get_config().evaluation}
    assert keys >= NO_NUMBERS


def test_two_configs_differ_where_numbers_can() -> None:
    default = {"batch_size": 8, "threads": 0, "data": {"cache": False, "exif": False}}
    new = {"batch_size": 8, "threads": 4, "data": {"cache": True, "exif": False}}
    assert differing(default, new, default) == []
    assert differing({**new, "batch_size": 16}, new, default) == ["batch_size=16, now 8"]
    # A tuple is what JSON reads as a list.
    assert differing({"rates": [1, 2]}, {"rates": (1, 2)}, {}) == []
    # A key that came later was at its default; one that has gone was not.
    later = {**new, "crops": "own"}
    assert differing(new, later, {**default, "crops": "own"}) == []
    assert differing(new, later, {**default, "crops": "paper"}) == ["crops by default, now own"]
    assert differing(later, new, default) == ["crops=own, now no key"]
    long = differing({"rates": [*range(99)]}, {"rates": [1]}, {})
    assert len(long[0]) < 80


@pytest.mark.parametrize(
    ("job", "network", "decides"),
    [
        ("linear", "online", False),
        # Its BatchNorm averages come from batches of that size.
        ("linear", "random", True),
        ("transfer", "random+online", True),
        ("finetune", "random", False),
    ],
)
def test_the_evaluation_batch_counts_for_untrained_networks(job, network, decides) -> None:
    config = {"job": job, "network": network, "eval_batch_size": 8}
    assert ("eval_batch_size" in deciding(config)) == decides
