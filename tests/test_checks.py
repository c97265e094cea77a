"""The table of checked keys."""

import math

import pytest

from byol_jax.checks import PROBABILITY, SEED, above, at_least, check_keys, one_of, within
from byol_jax.errors import UserError


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
