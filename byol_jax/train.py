"""The pre-training job: batch, update, log, save, now and then evaluate."""

import contextlib
import functools
import logging
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from byol_jax import loop, method, refresh, update, weights
from byol_jax.data import background, images, pipeline, sources, stored
from byol_jax.data.views import Reading, Stream
from byol_jax.entries import entry_of, numbers_of
from byol_jax.errors import UserError, require
from byol_jax.evals import evaluate, follow
from byol_jax.method import hyperparameters, method_of, views_of
from byol_jax.networks import siamese
from byol_jax.objectives import collapse
from byol_jax.program import Program, TrainState, init_state
from byol_jax.runtime import checkpoints, metrics, processes, profiler, spmd
from byol_jax.start import start_from

_logger = logging.getLogger(__name__)


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses, before anything is computed, what no run could use; see `method.check`.

    Raises:
      UserError: names the key, its value and what would be right.
    """
    method.check(config)
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


@functools.lru_cache(maxsize=2)
def mapped_step(
    program: Program,
    sizes: tuple[int, ...] | None = None,
    devices: tuple[jax.Device, ...] | None = None,
) -> Any:
    """One compiled step for all runs of a program: their numbers are traced.

    It takes a state, which it uses up, a batch, the seed and the hyperparameters, each with a
    leading device axis, and is for the devices that there are if no others are named. With the
    `sizes` of the views it takes resident images, too.
    """
    step = functools.partial(update.train_step, program=program, sizes=sizes or ())
    return spmd.pmap(step, donate_argnums=(0,), devices=devices)


def load_images(config: ml_collections.ConfigDict) -> images.ImageSet:
    """What a config trains on; without labels where an image has several, as the probe has one.

    Raises:
      UserError: if it cannot be read.
    """
    require(config.dataset, f"config.dataset is needed: {', '.join(sources.KINDS)}")
    with metrics.announced(f"reading images of {config.dataset}"):
        image_set = sources.load(config.dataset, config.data.split, config.data_dir)
        if config.data.cache:
            image_set = images.cached(image_set)
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


def _batches(
    config: ml_collections.ConfigDict, train_set: images.ImageSet, start: int, end: int
) -> background.Batches:
    """This process's batches of steps start .. end - 1: crops, or boxes of resident images."""
    stream = Stream(
        config.seed,
        train_set.size,
        config.batch_size,
        micro_batches=config.accumulate,
        start=start,
        stop=end,
        process=(jax.process_index(), jax.process_count()),
    )
    data = config.data
    if data.resident:
        return pipeline.train_boxes(train_set, stream, views_of(config), data.prefetch)
    reading = Reading(
        exif=data.exif,
        scaled=data.scaled_decoding,
        on_host=config.augment.placement == "host",
        threads=data.threads,
        prefetch=data.prefetch,
        service=data.service,
    )
    return pipeline.train_batches(train_set, stream, views_of(config), reading)


class _Run(NamedTuple):
    """A run, before anything of it is on a device.

    Attributes:
      config: the resolved config.
      workdir: folder of the run's outputs.
      train_set: images to train on.
      data: what the run evaluates itself on, or None.
      program: what is compiled.
      total_steps: updates of the whole run.
      span: which of them are done now.
      terms: `weights.terms_of` the weights that the run started from, if they are not its own.
    """

    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    train_set: images.ImageSet
    data: evaluate.Data | None
    program: Program
    total_steps: int
    span: loop.Span
    terms: Mapping[str, str] = {}

    @property
    def record(self) -> dict[str, Any]:
        """What is saved beside the arrays."""
        return {
            "config": self.config.to_dict(),
            "num_classes": self.train_set.num_classes,
            "total_steps": self.total_steps,
            **self.terms,
        }

    @property
    def checkpoints(self) -> pathlib.Path:
        """Folder of the steps."""
        return self.workdir / "checkpoints"


def _evaluation_data(config: ml_collections.ConfigDict) -> evaluate.Data | None:
    """What a run evaluates itself on, at its end or now and then.

    Raises:
      UserError: it cannot be read, or kNN is asked for where an image has several classes.
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
        exif=config.data.exif,
        batch_size=evaluation.batch_size,
    )
    require(
        not (evaluation.knn_every and data.fit.multi_label),
        f"config.evaluation.knn_every={evaluation.knn_every}: {config.dataset} has several "
        "classes per image, and kNN takes one; give 0",
    )
    return data


def _plan(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> _Run:
    """Everything about a run that can be known, and refused, before it starts."""
    check(config)
    train_set = load_images(config)
    check_labels(config, train_set.num_classes)
    if config.data.resident:
        train_set = _in_memory(train_set, config)
    total_steps = config.num_steps or pipeline.steps_for(
        config.num_epochs, train_set.size, config.batch_size
    )
    start = max(checkpoints.steps(workdir / "checkpoints"), default=0)
    if start:
        config.init = _init_of(config, workdir, start)
    end = min(config.stop_at or total_steps, total_steps)
    return _Run(
        config=config,
        workdir=workdir,
        train_set=train_set,
        data=_evaluation_data(config),
        program=program_of(config, train_set.num_classes),
        total_steps=total_steps,
        span=loop.Span(start, max(start, end), config.log_every, config.checkpoint_every),
    )


def _init_of(config: ml_collections.ConfigDict, workdir: pathlib.Path, start: int) -> str | None:
    """The weights that a run started from, which goes on now and reads its own.

    Raises:
      UserError: `config.init` names others.
    """
    own = weights.read_record(workdir / "checkpoints", start)["config"].get("init")
    require(
        config.init in (None, own),
        f"config.init={config.init}: the run in {workdir} is at step {start} and started from "
        f"{own or 'drawn weights'}; leave config.init out, or give another --workdir",
    )
    return own


def _started(run: _Run) -> tuple[_Run, TrainState]:
    """The run with the terms of its weights, and host arrays of the state that it starts from.

    Without a checkpoint the state is drawn, or has the weights of `config.init`. With one, only its
    shapes are computed.

    Raises:
      UserError: the newest checkpoint is damaged, or of another architecture; or `config.init` is.
    """
    config, start = run.config, run.span.start
    arguments = (
        *(config.seed, run.program, sizes_of(config), run.train_set.size),
        *(config.target_init, numbers_of(config)),
    )
    if start:
        flat, record = weights.upgrade(*checkpoints.read(run.checkpoints, start))
        shapes = jax.eval_shape(lambda: init_state(*arguments))
        source = f"checkpoint {run.checkpoints / str(start)}"
        state: TrainState = checkpoints.fill(shapes, flat, source)
        names = [name for name in ("origin", "licence") if name in record]
        return run._replace(terms={name: str(record[name]) for name in names}), state
    state = jax.device_get(init_state(*arguments))
    if config.init:
        try:
            trained = weights.load(config.init)
        except UserError as error:  # which knows the path as that of a checkpoint
            raise UserError(str(error).replace("checkpoint=", "config.init=", 1)) from error
        state = start_from(state, trained, _spec_of(config, run.train_set.num_classes), config.init)
        run = run._replace(terms=weights.terms_of(trained))
    return run, state


def _trained(run: _Run, state: TrainState) -> weights.Trained:
    """The networks of a state on the devices, as evaluations take them."""
    online = spmd.to_host((state.online_params, state.online_state))
    target = spmd.to_host((state.target_params, state.target_state))
    step = int(spmd.to_host(state.step))
    return weights.trained_of(run.record, step, *online, *target)


class Ended(NamedTuple):
    """Where a run stands after `pretrain`, in finished updates.

    Attributes:
      start: before it.
      step: after it.
      total_steps: at the end of the run; `step` is less where `config.stop_at` ended it.
    """

    start: int
    step: int
    total_steps: int


def pretrain(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> Ended:
    """Trains, resuming by itself from the newest checkpoint in `workdir`.

    Raises:
      UserError: for a config or a workdir that does not fit, before anything is written.
      Diverged: when a number is not finite; the last good state is saved.
      Stopped: after SIGINT or SIGTERM, with the state saved.
    """
    run = _plan(config, workdir)
    span, num_examples = run.span, run.train_set.size
    processes.require_same(
        {"the newest checkpoint in --workdir": span.start, "images in config.dataset": num_examples}
    )
    run, host = _started(run)
    if span.start >= span.end:
        _end_again(run, host)
        return Ended(span.start, span.start, run.total_steps)
    batches = _batches(config, run.train_set, span.start, span.end)

    # What the user has in the workdir was not touched up to this line.
    if processes.is_first_process():
        workdir.mkdir(parents=True, exist_ok=True)
        metrics.write_json(workdir / "config.json", config.to_dict())
        _logger.info("%s", run.train_set.summary)
    _logger.info(
        "recipe: %s; steps %d to %d of %d; %d images, batch %d on %d device(s)",
        config.recipe,
        span.start,
        span.end,
        run.total_steps,
        num_examples,
        config.batch_size,
        jax.device_count(),
    )
    state = spmd.replicate(host)
    del host  # a copy of it is on each device
    state = _train(run, state, batches)
    _evaluate(run, state)
    return Ended(span.start, span.end, run.total_steps)


def _end_again(run: _Run, host: TrainState) -> None:
    """Ends a run that has no step left: evaluates it, unless its records are there."""
    step, results = run.span.end, run.workdir / "results.json"
    is_finished = step >= run.total_steps
    is_evaluated = run.data is not None and evaluate.has_records(
        results, step, run.data, run.config.evaluation.to_dict()
    )
    if processes.is_first_process():
        how = "finished" if is_finished else f"stopped by config.stop_at={run.config.stop_at}"
        where = f": its results are in {results}" if is_evaluated else ""
        _logger.info("already %s (step %d of %d)%s", how, step, run.total_steps, where)
    if is_finished and not is_evaluated:
        _evaluate(run, spmd.replicate(host))


def _shared(run: _Run) -> tuple[Any, ...]:
    """What every step takes beside state and batch: seed, numbers, perhaps resident images."""
    config, train_set = run.config, run.train_set
    numbers = hyperparameters(config, train_set.size, run.total_steps)
    resident = [train_set.images] if config.data.resident else []
    shared: tuple[Any, ...] = spmd.replicate((np.int32(config.seed), numbers, *resident))
    return shared


def _train(run: _Run, state: TrainState, batches: background.Batches) -> TrainState:
    """Runs the loop, with whatever it shows and writes."""
    config, span = run.config, run.span
    step = mapped_step(run.program, sizes_of(config) if config.data.resident else None)
    shared = _shared(run)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(batches))
        saver = checkpoints.saver(run.checkpoints, config.keep_checkpoints or None)
        stack.callback(checkpoints.close, saver)
        writer = progress = None
        pace = metrics.Pace(span.start, span.end)
        if processes.is_first_process():
            writer = metrics.Writer(run.workdir, span.start)
            stack.enter_context(contextlib.closing(writer))
            progress = metrics.Progress(run.total_steps * config.batch_size, "pretrain")
            stack.enter_context(contextlib.closing(progress))
            patience = " (minutes are normal on a CPU)" * (jax.default_backend() == "cpu")
            _logger.info("compiling the update step%s", patience)
        first = span.start + config.profile.first
        traced = stack.enter_context(
            profiler.traced(run.workdir / "profile", first, config.profile.steps)
        )

        def show(done: int, logs: Mapping[str, np.ndarray]) -> None:
            assert writer and progress
            values = {name: float(value) for name, value in logs.items() if np.ndim(value) == 0}
            embeddings = [logs[name] for name in update.EMBEDDINGS if name in logs]
            values |= collapse.health(embeddings[0], embeddings[1] if embeddings[1:] else None)
            writer.write(done, "train", values)
            message = f"step {done} loss {values['loss']:.3f} std {values['projection_std']:.2f}"
            progress.advance(done * config.batch_size, message)

        def monitor(done: int, state: TrainState) -> None:
            if writer:
                pace.tell(done)
            every = config.evaluation.knn_every
            if writer and run.data and every and done % every == 0:
                trained = _trained(run, state)
                values = evaluate.monitor(trained, run.data, config.evaluation.to_dict())
                writer.write(done, "test", values)

        return loop.run(
            lambda state, batch: step(state, batch, *shared),
            state,
            spmd.prefetch(batches, config.accumulate, config.data.prefetch),
            span,
            saving=loop.Saving(
                saver,
                run.record,
                str(run.checkpoints),
                "lower config.optimizer.base_learning_rate, or look at the images of that batch",
            ),
            show=show if writer else None,
            per_device=update.EMBEDDINGS,
            due=loop.Due(
                before=refresh.when_due(config, run.program, run.train_set),
                after=monitor,
                traced=traced,
            ),
        )


def _evaluate(run: _Run, state: TrainState) -> None:
    """Evaluates a run that is at its end, if it is to."""
    evaluation, data = run.config.evaluation.to_dict(), run.data
    if run.span.end < run.total_steps:
        _logger.info(
            "ended at config.stop_at=%d, saved in %s",
            run.span.end,
            run.checkpoints / str(run.span.end),
        )
    elif evaluation["at_end"] and data and data.fit.size > evaluate.LARGEST:
        _logger.info("not evaluated on %d images: experiments/evaluate.py does", data.fit.size)
    elif evaluation["at_end"] and data and processes.is_first_process():
        trained = _trained(run, state)
        records = evaluate.evaluate(trained, data, evaluation)
        follow.report(follow.with_terms(records, trained), run.workdir)
