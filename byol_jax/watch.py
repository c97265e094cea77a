"""Writes and shows the logs of a run, and watches them for a collapse, which nothing else shows.

The watchdog reads what is logged anyway. What is seen at a single step, or in the first tenth of a
run, does not count.
"""

import collections
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from byol_jax import update
from byol_jax.objectives import collapse
from byol_jax.results import healthy
from byol_jax.runtime import metrics

_logger = logging.getLogger(__name__)

# Steps and logs over which values are averaged, at least, and the share of a run that they are of.
_STEPS, _LOGS, _SHARE = 20, 5, 0.02
# The share of a run, and the steps, that do not count: weights are drawn, rates rise.
_FIRST_SHARE, _FIRST_STEPS = 0.1, 50
# What is a collapse by itself. A probe at chance may also have wrong labels, or too low a rate.
_COLLAPSES = ("spread", "rank", "point")
# Objectives that compare with no other images: nothing in the loss keeps images apart.
_WITHOUT_NEGATIVES = ("byol", "simsiam")


def causes(config: Mapping[str, Any]) -> str:
    """The likely cause of a collapse by the dials of a run, with the table that shows it.

    Args:
      config: by dotted key.
    """
    name, target = config["objective.name"], config["target"]
    if name in _WITHOUT_NEGATIVES:
        if target == "online":
            return (
                "config.target=online lets the gradient into the target (SimSiam Figure 2, 0.1 % "
                "without stop-gradient): give ema"
            )
        if name == "byol" and target == "stop_gradient":
            return (
                "config.target=stop_gradient: BYOL needs a target that moves slowly (BYOL "
                "Table 5a, 0.3 % without): give ema"
            )
        if config["network.predictor.kind"] == "none":
            return (
                "config.network.predictor.kind=none: without negatives a predictor is needed "
                "(BYOL Table 5b, 0.2 % without; SimSiam Table 1): give mlp"
            )
        if target == "ema" and config["tau_base"] < 0.5:
            return (
                f"config.tau_base={config['tau_base']:g}: the target follows too fast "
                "(BYOL Table 5a, 0.3 % at 0): give 0.9 or more"
            )
        if not config["network.projector.hidden_norm"]:
            return (
                "config.network.projector.hidden_norm=False: BatchNorm in the heads helps against "
                "it (Lecture): give True"
            )
    if config["optimizer.weight_decay"] > 1e-2:
        return f"config.optimizer.weight_decay={config['optimizer.weight_decay']:g} is large"
    return (
        "no dial of this run is known for it: compare its rate "
        f"(config.optimizer.base_learning_rate={config['optimizer.base_learning_rate']:g}), batch "
        "and augmentation with those of its page"
    )


class Watchdog:
    """Warns once per kind of collapse.

    Args:
      total_steps: updates of the whole run.
      sizes: what logs are compared with; `largest_rank` comes with the logs.
      cause: see `causes`.
    """

    def __init__(self, total_steps: int, sizes: healthy.Sizes, cause: str):
        self._first = max(_FIRST_SHARE * total_steps, _FIRST_STEPS)
        self._span = max(_STEPS, _SHARE * total_steps)
        self._sizes, self._cause = sizes, cause
        self._logs: collections.deque[tuple[int, Mapping[str, float]]] = collections.deque()
        self._probe: list[float] = []
        self._told: set[str] = set()
        # Why a run that stops on a collapse should end; empty before one is seen.
        self.collapse = ""

    def see(self, step: int, values: Mapping[str, float], largest_rank: int) -> None:
        """Takes the logs of a step.

        Args:
          step: its number.
          values: scalars by name.
          largest_rank: number of embedded images or of their dimensions, the smaller one.
        """
        if step <= self._first:
            return
        self._logs.append((step, values))
        self._probe.append(values.get("probe_top1", math.nan))
        while len(self._logs) > _LOGS and step - self._logs[1][0] >= self._span:
            self._logs.popleft()
        if len(self._logs) < _LOGS or step - self._logs[0][0] < self._span:
            return
        names = set.intersection(*(set(logs) for _, logs in self._logs))
        means = {name: float(np.mean([logs[name] for _, logs in self._logs])) for name in names}
        # A share of few images says little: it is the mean of all since the last look.
        means["probe_top1"] = float(np.mean(self._probe))
        images = self._sizes.images * len(self._probe)
        sizes = self._sizes._replace(largest_rank=largest_rank, images=images)
        if images >= healthy.enough_images(self._sizes.classes):
            self._probe.clear()
        for kind, words in healthy.unhealthy(means, sizes).items():
            self._tell(kind, f"step {step}: {words}")

    def _tell(self, kind: str, words: str) -> None:
        if kind in self._told:
            return
        self._told.add(kind)
        if kind in _COLLAPSES:
            self.collapse = self.collapse or f"collapsed: {words}: {self._cause}"
            _logger.warning("the run has collapsed: %s: %s", words, self._cause)
        else:
            _logger.warning(
                "%s: the run has collapsed, learns too slowly, or the labels are not those of the "
                "images",
                words,
            )


def watchdog(
    config: Mapping[str, Any], total_steps: int, classes: int, is_supervised: bool
) -> Watchdog:
    """The watchdog of a run.

    Args:
      config: by dotted key.
      total_steps: updates of the whole run.
      classes: number of classes of the online probe; 0 without labels.
      is_supervised: whether the objective learns from labels.
    """
    sizes = healthy.Sizes(classes, config["batch_size"], 0, is_supervised)
    return Watchdog(total_steps, sizes, causes(config))


def display(
    writer: metrics.Writer, progress: metrics.Progress, batch_size: int, dog: Watchdog
) -> Callable[[int, Mapping[str, np.ndarray]], None]:
    """What `loop.run` calls with the logs of a pre-training: writes, shows and watches them."""

    def show(done: int, logs: Mapping[str, np.ndarray]) -> None:
        values = {name: float(value) for name, value in logs.items() if np.ndim(value) == 0}
        embeddings = [logs[name] for name in update.EMBEDDINGS if name in logs]
        values |= collapse.health(embeddings[0], embeddings[1] if embeddings[1:] else None)
        writer.write(done, "train", values)
        message = f"step {done} loss {values['loss']:.3f} std {values['projection_std']:.2f}"
        progress.advance(done * batch_size, message)
        dog.see(done, values, min(embeddings[0].shape))

    return show
