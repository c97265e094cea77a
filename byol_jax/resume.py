"""A run that goes on: whether its settings and its images are those of its newest checkpoint.

The record of a checkpoint says what made it. What would change a number of the training is compared
with what the command gives now, and a difference is refused unless the user wants it. Other keys
may change from one start to the next.
"""

import logging
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from byol_jax import weights
from byol_jax.checks import deciding, mark_changed
from byol_jax.data import images
from byol_jax.errors import UserError, require
from byol_jax.runtime import metrics, processes

_logger = logging.getLogger(__name__)

Record = Mapping[str, Any]

# Keys, and whole sections, that change no number of a training, though they change what is measured
# of it; where its images are, for the fingerprint tells them; and its length, which is compared in
# steps. `config.init` has a check of its own.
APART = frozenset(
    (
        *("evaluation", "data.eval_crop", "data.classifier_crops"),
        *("dataset", "data_dir", "data.labels", "data.split", "num_epochs", "num_steps", "init"),
    )
)
# How many differences a message names.
_NAMED = 4


class Change(NamedTuple):
    """Something that a checkpoint was not made with.

    Attributes:
      key: dotted key of the config.
      words: the key with its value and the value that it had.
    """

    key: str
    words: str


def compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a pre-training by dotted key that are compared one by one.

    Args:
      config: as plain values, with the keys of this version.
    """
    apart = {*APART}
    objective = config["objective"]["name"]
    own = objective if objective in config["objective"] else "own"
    apart |= {f"objective.{name}" for name in config["objective"] if name not in ("name", own)}
    # Nothing reads the rest of a section that is switched off.
    off = []
    if not config["augment"]["small"]["count"]:
        off.append("augment.small.")
    if config["network"]["dense"]["kind"] == "none":
        off.append("network.dense.")
    switches = {"augment.small.count", "network.dense.kind"}
    values = {
        key: value
        for key, value in deciding(config).items()
        if not any(key == name or key.startswith(f"{name}.") for name in apart)
        if key in switches or not key.startswith(tuple(off))
    }
    # One service is as good as another, but it has an order of its own.
    values["data.service"] = bool(values.get("data.service"))
    return values


def changes(old: Record, new: Record) -> list[Change]:
    """What differs between a checkpoint and a run that would go on from it.

    Args:
      old: record of the checkpoint, perhaps of an earlier version.
      new: the record that the run would save.
    """
    config = weights.upgrade_config(old["config"])
    before, after = compared(config), compared(new["config"])
    found = [
        Change(key, f"config.{key}={_short(after.get(key))} (was {_short(before.get(key))})")
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]
    images_differ = _other_images(old, new)
    # Epochs of another number of images are other steps, which is not what the user changed.
    lengths = ("num_epochs", "num_steps")
    is_given = any(old["config"].get(key) != new["config"][key] for key in lengths)
    length = _other_length(old, new) if is_given or not images_differ else []
    return [*images_differ, *length, *found, *_other_devices(old, new)]


def _other_length(old: Record, new: Record) -> list[Change]:
    """Schedules depend on the number of steps, whichever key gives it."""
    before, after = old["config"], new["config"]
    key = "num_steps" if after["num_steps"] or before.get("num_steps") else "num_epochs"
    was, now = old["total_steps"], new["total_steps"]
    if was is None:  # of the first version, which did not record it
        is_same = all(before.get(k) == after[k] for k in ("num_steps", "num_epochs"))
    else:
        is_same = was == now
    if is_same:
        return []
    words = f"config.{key}={_short(after[key])} (was {_short(before.get(key))})"
    if was is not None:
        words = f"{now} steps in all (was {was}; config.{key}={_short(after[key])})"
    return [Change(key, words)]


def _other_devices(old: Record, new: Record) -> list[Change]:
    """The number of devices decides whose statistics BatchNorm has, if they are not of all."""
    was, now, whose = old.get("devices"), new["devices"], new["config"]["bn_statistics"]
    if whose == "global" or was in (None, now):
        return []
    return [Change("bn_statistics", f"{now} devices (was {was}) with config.bn_statistics={whose}")]


def _other_images(old: Record, new: Record) -> list[Change]:
    before, after, was = old["config"], new["config"], old.get("data")
    places: dict[str, Callable[[Any], Any]] = {
        "dataset": place_of,
        "data_dir": _path_of,
        "data.split": str,
    }
    keys = [
        key
        for key, place in places.items()
        if place(_value(before, key)) != place(_value(after, key))
    ]
    named = [f"config.{key}={_short(_value(after, key))}" for key in keys]
    if was is None:
        return [
            Change(key, f"{words} (was {_short(_value(before, key))})")
            for key, words in zip(keys, named, strict=True)
        ]
    what = images.difference(was, new["data"])
    if not what:
        return []
    where = named or [f"config.dataset={_short(after['dataset'])}"]
    return [Change("dataset", f"{what} in {' '.join(where)}")]


def _value(config: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.rpartition(".")
    return (config[section] if section else config).get(name)


def place_of(dataset: str) -> str:
    """The name of a data set, with one spelling for the path of `folder:DIR` and `npz:FILE`."""
    kind, colon, path = dataset.partition(":")
    return f"{kind}:{_path_of(path)}" if colon and kind in ("folder", "npz") else dataset


def _path_of(path: str | None) -> str | None:
    return path and os.path.realpath(os.path.expanduser(path))


def _short(value: object) -> str:
    return text if len(text := str(value)) <= 60 else f"{text[:57]}..."


def history(
    new: Record, workdir: pathlib.Path, step: int, may_change: bool
) -> list[dict[str, Any]]:
    """What was changed of a run that goes on, and when.

    Args:
      new: the record that the run will save.
      workdir: its workdir.
      step: its newest checkpoint.
      may_change: whether the user wants changes.

    Returns:
      For each time that it went on with changes the `step` and what was `changed`, in words, with
      their `keys`.

    Raises:
      UserError: there are changes that the user may not know of, or fewer steps than are done.
    """
    old = weights.read_record(workdir / "checkpoints", step)
    done: list[dict[str, Any]] = list(old.get("changes", ()))
    if new["total_steps"] < step:
        key = "num_steps" if new["config"]["num_steps"] else "num_epochs"
        raise UserError(
            f"config.{key}={new['config'][key]} makes {new['total_steps']} steps, and the run in "
            f"{workdir} has done {step}: give as many or more, or another --workdir"
        )
    found = changes(old, new)
    if found and not may_change:
        raise UserError(_refusal(found, step, workdir))
    if processes.is_first_process():
        _say(found, old, new, step)
    if found:
        keys = list(dict.fromkeys(change.key for change in found))
        done.append({"step": step, "changed": [c.words for c in found], "keys": keys})
    return done


def _refusal(found: Sequence[Change], step: int, workdir: pathlib.Path) -> str:
    shown = "; ".join(change.words for change in found[:_NAMED])
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    other = ""
    if any(change.key == "dataset" for change in found):
        other = f", which may start from these weights (--config.init={workdir})"
    kept = f"config-{step}.json" if (workdir / f"config-{step}.json").exists() else "config.json"
    return (
        f"the run in {workdir} is at step {step} with other settings: {shown}{more}; give those of "
        f"its {kept}, or another --workdir{other}, or --config.resume_changed=True to go on "
        "with the new ones"
    )


def _say(found: Sequence[Change], old: Record, new: Record, step: int) -> None:
    """Logs each change, and what could not be compared."""
    for change in found:
        _logger.warning("changed from step %d on: %s", step, change.words)
    was, now = old["config"]["dataset"], new["config"]["dataset"]
    if "data" not in old:
        _logger.info(
            "the checkpoint of step %d does not say which images it saw, as those of earlier "
            "versions do not; its next save will",
            step,
        )
    elif was != now and not any(change.key == "dataset" for change in found):
        _logger.info("config.dataset=%s has the images of the run, which were in %s", now, was)


def with_history(recipe: str, done: Sequence[Mapping[str, Any]]) -> str:
    """The words of a recipe, with the keys that were changed on the way."""
    return mark_changed(recipe, [key for entry in done for key in entry["keys"]])


def init_of(given: str | None, workdir: pathlib.Path, step: int) -> str | None:
    """The weights that a run started from, which goes on now and reads its own.

    Raises:
      UserError: `config.init` names others.
    """
    own = weights.read_record(workdir / "checkpoints", step)["config"].get("init")
    require(
        given is None or _path_of(given) == _path_of(own),
        f"config.init={given}: the run in {workdir} is at step {step} and started from "
        f"{own or 'drawn weights'}; leave config.init out, or give another --workdir",
    )
    return own


def keep_old(workdir: pathlib.Path, step: int, done: Sequence[Mapping[str, Any]]) -> None:
    """Keeps the settings up to a step from which on others count, as config-STEP.json.

    One that is there is of an attempt that saved no step, and goes where nothing is changed now.
    """
    path = workdir / f"config-{step}.json"
    if done and done[-1]["step"] == step:
        metrics.write_json(path, weights.read_record(workdir / "checkpoints", step)["config"])
    else:
        path.unlink(missing_ok=True)
