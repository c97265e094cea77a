"""What was not finite in a run that diverged: in words, and as a file to repeat the step with."""

import collections
import contextlib
import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax.errors import GuardError, UserError
from byol_jax.optim import groups
from byol_jax.program import Hyperparameters, Method, Trainable, TrainState
from byol_jax.runtime import metrics, spmd

# Root mean square of an array of weights that only an update, or the factor of the first weights,
# can have made: drawn ones are below 1, and trained ones stay near it.
_HUGE = 1e3
_LARGEST_RATE = float(np.sqrt(np.finfo(np.float32).max))
# A loss whose gradient overflows by the scale of the objective alone.
_STEEP = 1e4
# From the loss to the images, which is the way of a gradient; the probe has one of its own.
_WAY = ("objective", "predictor", "dense", "projector", "trunk", "probe")


class Facts(NamedTuple):
    """What is known of the first step that was not finite.

    Attributes:
      step: its number, from 1.
      logs: its scalars; empty if they are not kept any more.
      gradients: l2-norm of the gradient of each array of parameters, by path.
      weights: root mean square of each array of parameters before the step, by path.
      rates: learning rate of each group at the step.
      numbers: other numbers of the step by path, such as `groups/trunk/weight_decay`.
      config: what decides a number, by dotted key.
      rows: `ids` and `epochs` of the images of this process.
    """

    step: int
    logs: Mapping[str, float]
    gradients: Mapping[str, float]
    weights: Mapping[str, float]
    rates: Mapping[str, float]
    numbers: Mapping[str, float]
    config: Mapping[str, Any]
    rows: Mapping[str, list[int]]


class Recent:
    """Keeps what the last steps gave, on the devices: nothing is fetched unless a run diverges.

    Args:
      start: number of finished updates before the first step.
      log_every: steps after which the host learns whether all of them were finite.
    """

    # Steps that are kept at most: each has some twenty small arrays on each device.
    _MOST = 250

    _ROWS = ("ids", "epochs")

    def __init__(self, start: int, log_every: int):
        self._step = start
        self._kept: collections.deque[tuple[int, dict[str, Any], dict[str, Any]]]
        self._kept = collections.deque(maxlen=min(log_every, self._MOST) + 2 * spmd.AHEAD + 2)

    def keep(self, batch: Mapping[str, Any], logs: Mapping[str, Any], but: tuple[str, ...]) -> None:
        """Keeps a step that was started; `but` are names of logs that are too large."""
        self._step += 1
        small = {name: value for name, value in logs.items() if name not in but}
        self._kept.append((self._step, small, {name: batch[name] for name in self._ROWS}))

    def of(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:
        """Logs of a step and its rows in this process, on the host; empty if it is not kept."""
        for number, logs, rows in self._kept:
            if number == step:
                flat = {k: spmd.local_rows(v).reshape(-1).tolist() for k, v in rows.items()}
                return spmd.to_host(logs), flat
        return {}, {}


class Run(NamedTuple):
    """The run, as far as it decides what a step computes.

    Attributes:
      workdir: its folder.
      method, numbers: how it is trained.
      config: what decides a number, by dotted key.
    """

    workdir: pathlib.Path
    method: Method
    numbers: Hyperparameters
    config: Mapping[str, Any]


def facts(run: Run, recent: Recent, step: int, state: TrainState) -> Facts:
    """What is known of the first step that was not finite.

    Args:
      run: the run.
      recent: its steps before and behind it.
      step: its number.
      state: host arrays of the state before it.
    """
    logs, rows = recent.of(step)
    trained = groups.named(Trainable(state.online_params, state.objective_params))
    with np.errstate(all="ignore"):
        norms = np.sqrt(logs.get("gradient_squares", np.zeros(0))).tolist()
        squares = {name: np.square(leaf, dtype=np.float64) for name, leaf in trained.items()}
    rates = groups.rates(run.method.groups, run.numbers.groups, jnp.int32(step - 1))
    return Facts(
        step=step,
        logs={name: float(value) for name, value in logs.items() if np.ndim(value) == 0},
        gradients=dict(zip(trained, norms, strict=False)),
        weights={name: float(np.sqrt(square.mean())) for name, square in squares.items()},
        rates={role: float(rate) for role, rate in rates._asdict().items()},
        numbers={
            groups.lars.path_name(path): float(leaf)
            for path, leaf in jax.tree_util.tree_flatten_with_path(run.numbers)[0]
            if np.ndim(leaf) == 0
        },
        config=run.config,
        rows=rows,
    )


def _nearest(names: list[str]) -> str:
    """Of arrays without a finite gradient the one nearest to the loss, where it began."""

    def place(name: str) -> tuple[int, list[int]]:
        # Of blocks the last one, by the numbers in its path.
        return _WAY.index(groups.role_of(name)), [-int(n) for n in re.findall(r"\d+", name)]

    return min(names, key=place)


def what(seen: Facts) -> str:
    """The first thing that was not finite, on the way from the numbers to the update."""
    if bad := [name for name, value in seen.numbers.items() if not math.isfinite(value)]:
        return f"{bad[0]}, a number of the config"
    if bad := [name for name, value in seen.weights.items() if not math.isfinite(value)]:
        return f"the update of step {seen.step - 1}, in {bad[0]}"
    # A rate whose square overflows in float32 ends a run before its updates do.
    if bad := [name for name, rate in seen.rates.items() if abs(rate) > _LARGEST_RATE]:
        return f"the update: the learning rate of the {bad[0]} is {seen.rates[bad[0]]:g}"
    outputs = {"embedding_norm": "representation", "projection_norm": "projection"}
    for log, words in (outputs | {"loss": "loss", "probe_loss": "probe's loss"}).items():
        if not math.isfinite(seen.logs.get(log, 0.0)):
            return f"the {words}"
    bad = [name for name, norm in seen.gradients.items() if not math.isfinite(norm)]
    if bad:
        more = f", and {len(bad) - 1} more of {len(seen.gradients)}" if bad[1:] else ""
        return f"the gradient of {_nearest(bad)}{more}"
    return "the objective's state" if seen.logs else "a number of a step whose logs are not kept"


def hint(seen: Facts) -> str:
    """The likely cause, by where numbers ceased to be finite and how large the weights are."""
    first, config = what(seen), seen.config
    name, largest = max(seen.weights.items(), key=lambda item: np.nan_to_num(item[1], nan=np.inf))
    scale, decay = config["network.init_scale"], config["optimizer.weight_decay"]
    if "number of the config" in first:
        return "give a finite one"
    if not largest <= _HUGE or first.startswith("the update"):
        size = f"{name} has a root mean square of {largest:.1e}: " * (not largest <= _HUGE)
        if scale > 10:
            return f"{size}lower config.network.init_scale={scale:g}"
        if seen.step == 1 and size:
            return f"{size}look at the weights of config.init"
        # No recipe has a decay of 1, and no rate stands it.
        key = "weight_decay" if decay >= 1 else "base_learning_rate"
        return f"{size}lower config.optimizer.{key}={config[f'optimizer.{key}']:g}"
    objective = config["objective.name"]
    prefix = f"objective.{objective}."
    own = [f"config.{key}={value}" for key, value in config.items() if key.startswith(prefix)]
    of_objective = f"look at {', '.join(own) or f'config.objective.name={objective}'}"
    if first in ("the representation", "the projection"):
        large = [
            f"config.{key}={value:g}"
            for key, value in config.items()
            if key.startswith("augment.") and isinstance(value, float) and abs(value) > 100
        ]
        return f"the weights are not large, so look at the views: {', '.join(large) or 'T and T'}"
    if first == "the loss":
        return f"the outputs of the network are finite, so {of_objective}"
    if first == "the probe's loss":
        return "the loss of the objective is finite: look at the labels of these images"
    if abs(seen.logs.get("loss", 0.0)) > _STEEP or any(_is_tiny(seen, key) for key in config):
        return f"the loss is finite, but steep: {of_objective}"
    if config.get("precision") == "bfloat16":
        return "the loss is finite and the weights are not large: try config.precision=float32"
    rate = f"config.optimizer.base_learning_rate={config['optimizer.base_learning_rate']:g}"
    return f"the loss is finite and the weights are not large: lower {rate}, or {of_objective}"


def _is_tiny(seen: Facts, key: str) -> bool:
    name, value = seen.config["objective.name"], seen.config[key]
    return key == f"objective.{name}.temperature" and value < 1e-3


def _json(value: Any) -> Any:
    """JSON has no numbers that are not finite: those become `nan`, `inf` and `-inf`."""
    if isinstance(value, Mapping):
        return {key: _json(entry) for key, entry in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write(seen: Facts, workdir: pathlib.Path, saved: int) -> pathlib.Path:
    """Writes `diverged-STEP.json`: all that repeats the step, beside the checkpoint before it.

    Args:
      seen: the facts.
      workdir: workdir of the run.
      saved: the newest step that is saved; 0 if none is.
    """
    path = workdir / f"diverged-{seen.step}.json"
    index, count = jax.process_index(), jax.process_count()
    metrics.write_json(
        path,
        {
            "step": seen.step,
            "checkpoint": f"checkpoints/{saved}" if saved else None,
            "not_finite": what(seen),
            "hint": hint(seen),
            "seed": seen.config.get("seed"),
            # Keys of crops and augmentation come from the seed, an id, an epoch and a view.
            "rows_of": f"process {index} of {count}",
            **seen.rows,
            "learning_rates": _json(seen.rates),
            "logs": _json(seen.logs),
            "gradient_norms": _json(seen.gradients),
            "weight_rms": _json(seen.weights),
            "config": json.loads(json.dumps(_json(seen.config))),
        },
    )
    return path


def explain(run: Run, recent: Recent, step: int, state: TrainState, saved: int) -> str:
    """What was not finite, the rate, where the numbers are, and what to do, in one line.

    Args:
      run, recent, step, state: as of `facts`.
      saved: the newest step that is saved; 0 if none is.
    """
    seen = facts(run, recent, step, state)
    where = ""
    with contextlib.suppress(GuardError, UserError):  # a full disk hides no cause
        where = f", numbers in {write(seen, run.workdir, saved)}"
    loss = f", loss {seen.logs['loss']:.3g}" if "loss" in seen.logs else ""
    rate = f", learning rate {seen.rates['trunk']:.3g}"
    advice = hint(seen)
    going_on = "; going on with another value takes --config.resume_changed=True"
    if not saved:
        going_on = "; the same workdir can be used again"
    elif _of_first_weights(advice):
        going_on = ", in another --workdir"
    return f"not finite was {what(seen)}{loss}{rate}{where}; {advice}{going_on}"


def _of_first_weights(advice: str) -> bool:
    """Whether a hint names what has an effect at step 0 alone."""
    return "config.init" in advice or "network.init_scale" in advice
