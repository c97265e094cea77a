"""Checks of a config: a table of allowed values per job, and one function that applies it."""

import difflib
import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from byol_jax.errors import require


class Rule(NamedTuple):
    """The values that a key may have.

    Attributes:
      allows: whether a value is one of them.
      words: completes the sentence "config.KEY=VALUE must be ...".
      names: the values themselves, where they are a few names; the nearest one is suggested.
    """

    allows: Callable[[Any], bool]
    words: str
    names: tuple[str, ...] = ()


def at_least(low: float) -> Rule:
    """Finite numbers from `low` on."""
    return Rule(lambda value: low <= value < math.inf, f"{low:g} or more")


def above(low: float) -> Rule:
    """Finite numbers greater than `low`."""
    return Rule(lambda value: low < value < math.inf, f"above {low:g}")


def within(low: float, high: float) -> Rule:
    """Numbers from `low` to `high`, both included."""
    return Rule(lambda value: low <= value <= high, f"from {low:g} to {high:g}")


def one_of(names: Iterable[str]) -> Rule:
    """A few names."""
    allowed = tuple(names)
    return Rule(lambda value: value in allowed, f"one of: {', '.join(allowed)}", allowed)


def each(rule: Rule, may_be_empty: bool = False) -> Rule:
    """Tuples of numbers that a rule allows; one or more of them unless the tuple may be empty."""

    def allows(values: Any) -> bool:
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        is_whole = len(numbers) == len(values) and (may_be_empty or numbers)
        return bool(is_whole) and all(rule.allows(number) for number in numbers)

    count = "numbers" if may_be_empty else "one or more numbers"
    return Rule(allows, f"{count}, each {rule.words}")


PROBABILITY = within(0, 1)._replace(words="a probability, from 0 to 1")
SEED = Rule(lambda value: 0 <= value < 2**31, "from 0 to 2**31 - 1")


def nearest(name: object, names: Iterable[str]) -> str:
    """` (did you mean X?)` with the most similar of some names, or nothing."""
    matches = difflib.get_close_matches(str(name), list(names), 1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def check_keys(
    config: Mapping[str, Any], rules: Mapping[str, Rule], prefix: str = "config"
) -> None:
    """Applies a table of rules to a config.

    Args:
      config: nested sections.
      rules: by dotted key. A key whose value is None is open, and allowed.
      prefix: name of the config in messages.

    Raises:
      UserError: names the first key that has another value, the value, and what is allowed.
    """
    for key, rule in rules.items():
        value = functools.reduce(lambda section, name: section[name], key.split("."), config)
        require(
            value is None or rule.allows(value),
            f"{prefix}.{key}={value!r} must be {rule.words}{nearest(value, rule.names)}",
        )


_LARGEST = 3.4028235e38  # of float32


def is_finite(number: float) -> bool:
    """Whether float32 has a number for it, neither infinite nor nan."""
    return abs(number) <= _LARGEST


def check_finite(config: Mapping[str, Any], prefix: str = "config") -> None:
    """Refuses numbers that are not finite in float32, wherever they are in a config.

    Args:
      config: nested sections, of any job.
      prefix: name of the config in messages.

    Raises:
      UserError: names the first key with such a number, alone or in a tuple.
    """
    for key, value in flatten(config).items():
        for number in value if isinstance(value, tuple | list) else (value,):
            require(
                not isinstance(number, float) or is_finite(number),
                f"{prefix}.{key}={value!r} must be finite in float32: give a number from "
                f"{-_LARGEST:.2g} to {_LARGEST:.2g}",
            )


# Keys of `config.objective` that moved into one section per objective, and the objectives that
# have them.
_MOVED = {
    "normalization": ("byol",),
    "temperature": ("info_nce", "nt_xent", "nt_logistic"),
    "beta": ("info_nce",),
    "margin": ("margin_triplet",),
    "l2": ("info_nce", "nt_xent", "nt_logistic", "margin_triplet"),
    "semi_hard": ("nt_logistic", "margin_triplet"),
}


def moved(key: str) -> str | None:
    """Where a key of earlier versions is now, in words; None if it did not move.

    Args:
      key: dotted, without `config.`.
    """
    section, _, name = key.rpartition(".")
    if section != "objective" or name not in _MOVED:
        return None
    return " or ".join(f"config.objective.{method}.{name}" for method in _MOVED[name])


# Keys, and whole sections, of any config that change no number: names, logs, checkpoints, how
# images are read ahead, and where the same operations run, which changes rounding as other devices
# do. All that compares two configs of a run leaves them out.
NO_NUMBERS = frozenset(
    (
        "recipe",  # words
        *("log_every", "checkpoint_every", "keep_checkpoints", "stop_at", "profile", "views"),
        *("finish", "choose", "resume_changed", "skip_damaged"),
        *("checkpoint_minutes", "stop_on_collapse"),
        *("threads", "prefetch", "data.threads", "data.prefetch", "data.cache"),
        *("augment.placement", "data.resident", "network.remat"),
        *("follow", "follow_seconds", "follow_hours", "evaluation.knn_every", "save_predictions"),
    )
)
# Images per call of a network whose BatchNorm is on its averages. Only an untrained network, which
# gets its averages from batches of this size, gives other numbers with another one.
_EVALUATION_BATCH = "eval_batch_size"


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested sections by dotted key."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values by dotted key that can change a number of a job, as JSON has them.

    Args:
      config: of any job, as plain values.
    """
    ignored = NO_NUMBERS
    untrained = "random" in str(config.get("network")).split("+")
    if not (untrained and config.get("job") in ("linear", "transfer")):
        ignored |= {_EVALUATION_BATCH}
    flat = flatten(json.loads(json.dumps(config)))
    return {
        key: value
        for key, value in flat.items()
        if key not in ignored and key.partition(".")[0] not in ignored
    }


# Between the words of a recipe and the keys that are changed of it.
_CHANGED = "; changed: "
_PUBLISHED = "published: "
# Keys that are not of the recipe: what it is run on, its seed, and what is measured of it.
_APART = ("dataset", "data_dir", "data.labels", "seed", "job", "evaluation")


def with_changes(
    recipe: str,
    config: Mapping[str, Any],
    given: Iterable[str],
    page: Mapping[str, Any] | None = None,
) -> str:
    """The words of a recipe, with the keys that are changed of it; it is then not published.

    Args:
      recipe: as in `config.recipe` of the page.
      config: as plain values, with all changes.
      given: the keys that the user gave, dotted, without `config.`.
      page: config that the recipe is of, where it is known; then what differs from it is changed,
        be it by the command line or by a page that starts from that page.
    """
    decide = deciding(config)
    if page is None:
        changes = [key for key in given if key in decide]
    else:
        before = deciding(page)
        changes = [key for key in {**decide, **before} if decide.get(key) != before.get(key)]
    return mark_changed(recipe, changes)


def mark_changed(recipe: str, keys: Iterable[str]) -> str:
    """The words of a recipe with further keys that are changed of it."""
    words, known = changes_in(recipe)
    keys = [key for key in keys if not {key, key.partition(".")[0]} & {*_APART}]
    if not keys:
        return recipe
    changes = dict.fromkeys([*known, *keys])
    return f"{words.removeprefix(_PUBLISHED)}{_CHANGED}{', '.join(changes)}"


def changes_in(recipe: str) -> tuple[str, list[str]]:
    """The words of a recipe without the changed keys, and those keys: undoes `with_changes`."""
    words, _, keys = recipe.partition(_CHANGED)
    if not keys:
        return recipe, []
    return words.removeprefix(_PUBLISHED), keys.split(", ")


def differing(
    old: Mapping[str, Any], new: Mapping[str, Any], default: Mapping[str, Any]
) -> list[str]:
    """Where two configs of a run may have different numbers, as in `batch_size=8, now 16`.

    Args:
      old: config of what was run, perhaps by an earlier version.
      new: config of what is to be run.
      default: `new` before the user's changes. A key that `old` lacks came later, and its default
        is what had been there all the time.
    """
    before, after, by_default = deciding(old), deciding(new), deciding(default)
    changed = [
        f"{key}={_short(value)}, now {_short(after.get(key, 'no key'))}"
        for key, value in before.items()
        if key not in after or after[key] != value
    ]
    later = {key: value for key, value in after.items() if key not in before}
    return changed + [
        f"{key} by default, now {_short(value)}"
        for key, value in later.items()
        if by_default.get(key) != value
    ]


def _short(value: object) -> str:
    return text if len(text := str(value)) <= 40 else f"{text[:37]}..."


class Overriding(NamedTuple):
    """A key that takes the effect of another one.

    Attributes:
      key: the key without effect, or the section of it.
      by: the key that decides.
      when: whether a value of `by` decides.
    """

    key: str
    by: str
    when: Callable[[Any], object]


# What a grid or a number of steps decides in place of a single value.
_DECIDED = (
    Overriding("num_epochs", "num_steps", bool),
    Overriding("num_epochs", "sweep_epochs", bool),
    Overriding("sweep_epochs", "num_steps", bool),
    Overriding("weight_decay", "sweep_weight_decays", bool),
)
# What only some values of another key make use of.
_UNUSED = (
    Overriding("magnitude", "augmentation", lambda name: name != "randaugment"),
    Overriding("view", "augmentation", lambda name: name != "pretrain"),
    Overriding("subset_seed", "train_dataset", bool),
    Overriding("subset_seed", "fraction", lambda share: share == 1),
    Overriding("encoder", "checkpoint", bool),
)


def _without_effect(config: Mapping[str, Any], key: str, table: Iterable[Overriding]) -> str | None:
    value: Any = functools.reduce(lambda section, name: section[name], key.split("."), config)
    if value is None or value == ():
        return None
    for part, by, when in table:
        is_meant = key == part or key.startswith(f"{part}.")
        if is_meant and by in config and when(config[by]):
            return f"config.{key}={value!r} has no effect beside config.{by}={config[by]!r}"
    return None


def is_unused(config: Mapping[str, Any], key: str) -> bool:
    """Whether no job would read a key of a config, for another key has some other value."""
    return _without_effect(config, key, _UNUSED) is not None


def check_given(config: Mapping[str, Any], given: Iterable[str], unused: bool = True) -> None:
    """Refuses keys that a user gave and that another key leaves without effect.

    Args:
      config: nested sections, with what the user gave.
      given: the keys that the user gave, dotted, without `config.`.
      unused: whether keys that no job would read are refused, too.

    Raises:
      UserError: names the first one, its value, and the key that decides.
    """
    for key in given:
        why = _without_effect(config, key, _DECIDED)
        require(not why, f"{why}: leave it out, or unset the latter (None, or () for a grid)")
        why = _without_effect(config, key, _UNUSED) if unused else None
        require(not why, f"{why}: leave it out, or change the latter")
