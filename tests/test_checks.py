"""The table of checked keys."""

import math

import pytest

from byol_jax import checks
from byol_jax.checks import (
    NO_NUMBERS,
    PROBABILITY,
    SEED,
    above,
    at_least,
    check_given,
    check_keys,
    deciding,
    differing,
    each,
    one_of,
    within,
)
from byol_jax.errors import UserError
from experiments import base, classification


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


def test_keys_that_change_no_number_are_keys_of_the_pages() -> None:
    """None is a misspelling."""
    keys = {*classification.get_config(), *base.get_config()}
    keys |= {*checks.flatten(base.get_config().to_dict())}
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


def test_a_recipe_names_what_the_command_line_changes_of_it() -> None:
    """And is not published any more."""
    config = {
        **{"dataset": "folder:x", "batch_size": 16, "num_steps": 4, "log_every": 1, "seed": 2},
        **{"network": {"depth": "18", "remat": True}, "evaluation": {"at_end": False}},
    }
    given = ["dataset", "batch_size", "log_every", "seed", "network.depth", "evaluation.at_end"]
    given.append("network.remat")
    recipe = checks.with_changes("published: App. A", config, given)
    assert recipe == "App. A; changed: batch_size, network.depth"
    assert checks.with_changes("published: App. A", config, ["dataset"]) == "published: App. A"
    given = {"data": {"labels": "x.csv", "area_min": 0.2}}
    recipe = checks.with_changes("App. A", given, ["data.labels", "data.area_min"])
    assert recipe == "App. A; changed: data.area_min"
    assert checks.with_changes("not published: x", config, ["num_steps"]) == (
        "not published: x; changed: num_steps"
    )


def test_a_recipe_is_compared_with_its_page_where_that_is_known() -> None:
    """Whoever changed it: the command line, which gave one key its own value, or another page."""
    page = {"dataset": None, "batch_size": 4096, "tau_base": 0.996, "network": {"depth": "50"}}
    config = {"dataset": "x", "batch_size": 4096, "tau_base": 0.99, "network": {"depth": "18"}}
    recipe = checks.with_changes("published: App. A", config, ["batch_size", "tau_base"], page)
    assert recipe == "App. A; changed: tau_base, network.depth"
    assert checks.with_changes("published: App. A", page, ["tau_base"], page) == "published: App. A"


def test_changes_of_a_recipe_add_up() -> None:
    recipe = checks.mark_changed("App. A; changed: tau_base", ["batch_size", "tau_base", "seed"])
    assert recipe == "App. A; changed: tau_base, batch_size"
    assert checks.changes_in(recipe) == ("App. A", ["tau_base", "batch_size"])
    # Of an earlier version.
    assert checks.changes_in("published: App. A; changed: seed") == ("App. A", ["seed"])
    assert checks.changes_in("published: App. A") == ("published: App. A", [])


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"a": {"b": math.inf}}, r"config\.a\.b=inf"),
        ({"a": {"b": -math.inf}}, r"config\.a\.b=-inf"),
        ({"rate": math.nan}, r"config\.rate=nan"),
        ({"rate": 1e39}, r"config\.rate=1e\+39"),
        ({"rates": (0.1, math.nan)}, r"config\.rates=\(0\.1, nan\)"),
        ({"rates": [1, math.inf]}, r"config\.rates=\[1, inf\]"),
    ],
)
def test_numbers_that_float32_cannot_hold_are_refused_by_key(config, named) -> None:
    with pytest.raises(UserError, match=f"{named} must be finite in float32") as caught:
        checks.check_finite(config)
    assert "\n" not in str(caught.value)


def test_other_values_are_finite() -> None:
    checks.check_finite({"a": 3e38, "b": (), "c": None, "d": "inf", "e": True, "f": 10**30})
