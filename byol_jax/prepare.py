"""What a run will do: all that can be known of it, and refused, before its first step."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from byol_jax import loop, method, resume, weights
from byol_jax.data import depth, images, pipeline, sources, stored
from byol_jax.entries import entry_of, numbers_of
from byol_jax.errors import UserError, require
from byol_jax.evals import evaluate
from byol_jax.method import method_of, views_of
from byol_jax.networks import siamese
from byol_jax.program import Program, TrainState, init_state
from byol_jax.runtime import checkpoints, metrics, newest, paths, processes, spmd
from byol_jax.start import start_from


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses, before anything is computed, what no run could use; see `method.check`.

    It also names the data set as `method.name_labels` does.

    Raises:
      UserError: names the key, its value and what would be right.
    """
    method.name_labels(config)
    method.check(config)
    if config.init:
        paths.outside(config.init, "config.init")
    evaluate.check_section(config)


def check_labels(config: ml_collections.ConfigDict, num_classes: int) -> None:
    """Raises `UserError` if the objective learns from labels, and the data set has none."""
    require(
        num_classes or not entry_of(config).needs_labels,
        f"config.objective.name={config.objective.name} learns from labels, one per image, and "
        f"config.dataset={config.dataset} has none: give nt_xent, its counterpart without labels",
    )


def _spec_of(config: ml_collections.ConfigDict, num_classes: int) -> siamese.NetworkSpec:
    axis = spmd.AXIS if config.bn_statistics == "global" else None
    return siamese.make_spec(config.network.to_dict(), num_classes, axis, config.precision)


def program_of(config: ml_collections.ConfigDict, num_classes: int) -> Program:
    """What a config compiles, with a probe for `num_classes` classes."""
    network = siamese.siamese(_spec_of(config, num_classes))
    return Program(network, method_of(config), spmd.AXIS)


def sizes_of(config: ml_collections.ConfigDict) -> tuple[int, ...]:
    """Side of each view in pixels."""
    return tuple(view.size for view in views_of(config))


def _decoding(config: ml_collections.ConfigDict) -> images.Decoding:
    return images.Decoding(config.data.exif, config.data.largest_image)


def load_images(config: ml_collections.ConfigDict) -> images.ImageSet:
    """What a config trains on; without labels where an image has several, as the probe has one.

    Raises:
      UserError: if it cannot be read.
    """
    require(config.dataset, f"config.dataset is needed: {', '.join(sources.KINDS)}")
    with metrics.announced(f"reading images of {config.dataset}"):
        image_set = sources.load(
            *(config.dataset, config.data.split, config.data_dir), decoding=_decoding(config)
        )
        if config.data.cache:
            image_set = images.cached(image_set, processes.count_on_this_host())
        stored.check_readable(image_set)
    return images.unlabelled(image_set) if image_set.multi_label else image_set


def _in_memory(train_set: images.ImageSet, config: ml_collections.ConfigDict) -> images.ImageSet:
    """The set that is kept on the devices.

    Raises:
      UserError: its images differ in size, cannot be read, or do not fit.
    """
    train_set = stored.decoded(train_set, config.data.exif)
    assert isinstance(train_set.images, np.ndarray)
    size, memory = train_set.images.nbytes, spmd.device_memory()
    # Half of it is for the network, at least.
    require(
        memory is None or size <= memory / 2,
        f"config.data.resident: {train_set.size} images take {size / 2**30:.1f} GiB, more than "
        f"half of the {(memory or 0) / 2**30:.1f} GiB of a device: leave it out",
    )
    return train_set


class Run(NamedTuple):
    """A run, before anything of it is on a device.

    Attributes:
      config: the resolved config.
      workdir: folder of the run's outputs.
      train_set: images to train on.
      data: what the run evaluates itself on, or None.
      program: what is compiled.
      total_steps: updates of the whole run.
      span: which of them are done now.
      fingerprint: `images.fingerprint` of the images.
      changes: what was changed on the way, as `resume.history` has it.
      marks: the identity of the run (`newest.new_run`), and `weights.terms_of` the weights that it
        started from, if they are not its own.
    """

    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    train_set: images.ImageSet
    data: evaluate.Data | None
    program: Program
    total_steps: int
    span: loop.Span
    fingerprint: Mapping[str, int]
    changes: Sequence[Mapping[str, Any]] = ()
    marks: Mapping[str, str] = {}

    @property
    def record(self) -> dict[str, Any]:
        """What is saved beside the arrays."""
        return {
            "config": self.config.to_dict(),
            "num_classes": self.train_set.num_classes,
            "total_steps": self.total_steps,
            "data": dict(self.fingerprint),
            **depth.to_record(self.train_set.depth),
            "devices": jax.device_count(),
            **({"changes": list(self.changes)} if self.changes else {}),
            **self.marks,
        }

    @property
    def checkpoints(self) -> pathlib.Path:
        """Folder of the steps."""
        return self.workdir / "checkpoints"


def _evaluation_data(config: ml_collections.ConfigDict) -> evaluate.Data | None:
    """What a run evaluates itself on, at its end or now and then.

    Raises:
      UserError: it cannot be read, or kNN is asked for where an image has several classes, or none.
    """
    evaluation = config.evaluation
    if not (evaluation.at_end or evaluation.knn_every):
        return None
    data = evaluate.load(
        config.dataset,
        image_size=config.image_size,
        eval_crop=config.data.eval_crop,
        fit_split=evaluation.fit_split,
        score_split=evaluation.score_split,
        data_dir=config.data_dir,
        decoding=_decoding(config),
        batch_size=evaluation.batch_size,
    )
    has_one = data.num_classes and not data.fit.multi_label
    require(
        has_one or not evaluation.knn_every,
        f"config.evaluation.knn_every={evaluation.knn_every}: kNN takes one class per image, and "
        f"{config.dataset} has {'several' if data.num_classes else 'no labels'}; give 0",
    )
    return data


def plan(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> Run:
    """Everything about a run that can be known, and refused, before it starts."""
    train_set = load_images(config)
    check_labels(config, train_set.num_classes)
    fingerprint = images.fingerprint(train_set)
    if config.data.resident:
        train_set = _in_memory(train_set, config)
    total_steps = config.num_steps or pipeline.steps_for(
        config.num_epochs, train_set.size, config.batch_size
    )
    start = newest.to_continue(workdir / "checkpoints", config.skip_damaged)
    if start:
        config.init = resume.init_of(config.init, workdir, start)
    end = min(config.stop_at or total_steps, total_steps)
    return Run(
        config=config,
        workdir=workdir,
        train_set=train_set,
        data=_evaluation_data(config),
        program=program_of(config, train_set.num_classes),
        total_steps=total_steps,
        span=loop.Span(
            *(start, max(start, end), config.log_every, config.checkpoint_every),
            save_minutes=config.checkpoint_minutes or math.inf,
        ),
        fingerprint=fingerprint,
    )


def started(run: Run) -> tuple[Run, TrainState]:
    """The run with its marks, and host arrays of the state that it starts from.

    Without a checkpoint the state is drawn, or has the weights of `config.init`. With one, only its
    shapes are computed.

    Raises:
      UserError: the newest checkpoint is damaged, or of another architecture; or `config.init` is.
    """
    config, start = run.config, run.span.start
    run = run._replace(marks={"run": newest.new_run()})
    arguments = (
        *(config.seed, run.program, sizes_of(config), run.train_set.size),
        *(config.target_init, numbers_of(config)),
    )
    if start:
        flat, record = weights.upgrade(*checkpoints.read(run.checkpoints, start))
        shapes = jax.eval_shape(lambda: init_state(*arguments))
        source = f"checkpoint {run.checkpoints / str(start)}"
        state: TrainState = checkpoints.fill(shapes, flat, source)
        names = [name for name in ("run", "origin", "licence") if name in record]
        return run._replace(marks={**run.marks, **{n: str(record[n]) for n in names}}), state
    state = jax.device_get(init_state(*arguments))
    if config.init:
        try:
            trained = weights.load(config.init)
        except UserError as error:  # which knows the path as that of a checkpoint
            raise UserError(str(error).replace("checkpoint=", "config.init=", 1)) from error
        state = start_from(state, trained, _spec_of(config, run.train_set.num_classes), config.init)
        run = run._replace(marks={**run.marks, **weights.terms_of(trained)})
    return run, state
