"""Changes of several configs at once, in one string: `config.override`."""

import ast
import functools
import operator
from collections.abc import Mapping
from typing import Any

import ml_collections

from byol_jax import checks
from byol_jax.data import folder
from byol_jax.data.dense import sources as dense_sources
from byol_jax.errors import UserError, require

# Keys that may be left open again, with the word None.
_OPEN = ("num_steps", "stop_at")


def parse_pairs(name: str, text: str) -> dict[str, str]:
    """`a=b,c=d` as a dict.

    The commas within a data set, as in `folder:DIR,labels=FILE` or `voc:DIR,sbd=DIR`, part nothing.

    Raises:
      UserError: a part without an equals sign, a key or a value.
    """
    pairs: dict[str, str] = {}
    for word in filter(None, text.split(",")):
        key, separator, value = (part.strip() for part in word.partition("="))
        require(key and separator and value, f"config.{name}: {word!r} must be NAME=VALUE")
        last = next(reversed(pairs), "")
        before = pairs.get(last, "")
        if key == "labels" and before.startswith("folder:") and not folder.parts_of(before)[1]:
            pairs[last] = folder.with_labels(before, value)
        elif dense_sources.takes(before, key):
            pairs[last] = f"{before},{key}={value}"
        else:
            pairs[key] = value
    return pairs


def has(config: Mapping[str, Any], key: str) -> bool:
    """Whether a config, as plain values, has a dotted key that is not a section."""
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return False
        config = config[part]
    return not isinstance(config, Mapping)


def typed(key: str, text: str, current: Any) -> Any:
    """The value of an override, of the type of the value it replaces; `1+2` is a tuple.

    `None` leaves one of `_OPEN` open.

    Raises:
      UserError: the text is not of that type.
    """
    if key in _OPEN and text == "None":
        return None
    try:
        if isinstance(current, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(current, tuple | list):
            return tuple(_literal(word) for word in text.split("+"))
        return _literal(text) if current is None else type(current)(text)
    except (KeyError, ValueError) as error:
        kind = type(current).__name__
        raise UserError(f"config.override: {key}={text!r} must be of type {kind}") from error


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def apply(config: ml_collections.ConfigDict, changes: Mapping[str, str]) -> list[str]:
    """Sets the keys that a config has and reads, and ignores the others.

    Returns:
      The changes that were made, as in `batch_size=16`.

    Raises:
      UserError: a value is of another type than the one it replaces, or without effect because of
        a grid or a number of steps in the config.
    """
    plain = config.to_dict()
    values = {
        name: typed(name, text, functools.reduce(operator.getitem, name.split("."), plain))
        for name, text in changes.items()
        if has(plain, name)
    }
    checks.check_finite(values, "config.override")
    for name, value in values.items():
        try:
            config.update_from_flattened_dict({name: value})
        except TypeError as error:  # a key that was open, so that `typed` knew no type
            raise UserError(f"config.override: {name}={value!r} is of the wrong type") from error
    try:
        checks.check_given(config, values, unused=False)
    except UserError as error:
        raise UserError(f"config.override: {error}") from error
    unused = [name for name in values if checks.is_unused(config, name)]
    for name in unused:
        before = functools.reduce(operator.getitem, name.split("."), plain)
        config.update_from_flattened_dict({name: before})
    return [f"{name}={changes[name]}" for name in values if name not in unused]
