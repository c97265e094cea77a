"""The pre-training job: batch, update, log, save, now and then evaluate."""

import contextlib
import functools
import logging
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from byol_jax import (
    checks,
    diverged,
    loop,
    prepare,
    refresh,
    resume,
    supported,
    update,
    watch,
    weights,
)
from byol_jax.data import background, images, pipeline, sources
from byol_jax.data.views import Reading, Stream
from byol_jax.entries import entry_of
from byol_jax.errors import finished, require
from byol_jax.evals import evaluate, follow
from byol_jax.method import hyperparameters, views_of
from byol_jax.program import Hyperparameters, Program, TrainState
from byol_jax.runtime import (
    checkpoints,
    interrupts,
    lock,
    metrics,
    processes,
    profiler,
    spmd,
)

_logger = logging.getLogger(__name__)


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


def _trained(run: prepare.Run, state: TrainState) -> weights.Trained:
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


def pretrain(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    then: Callable[[Ended], None] = lambda ended: None,
) -> Ended:
    """Trains, resuming by itself from the newest checkpoint in `workdir`.

    Args:
      config: config of the run.
      workdir: its workdir.
      then: called at the end, while no other training may begin in the workdir.

    Raises:
      UserError: for a config or a workdir that does not fit, or in which another training is at
        work, before anything is written.
      Diverged: when a number is not finite; the last good state is saved.
      Stopped: after SIGINT or SIGTERM, with the state saved.
    """
    prepare.check(config)
    with lock.held(workdir):
        ended = _pretrain(config, workdir)
        then(ended)
    return ended


def _pretrain(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> Ended:
    """The same, alone in the workdir."""
    run = prepare.plan(config, workdir)
    span, num_examples = run.span, run.train_set.size
    processes.require_same(
        {"the newest checkpoint in --workdir": span.start}
        | {f"{name} of the images in config.dataset": v for name, v in run.fingerprint.items()}
    )
    if span.start:
        changes = resume.history(run.record, workdir, span.start, config.resume_changed)
        config.recipe = resume.with_history(config.recipe, changes)
        require(
            span.start < run.total_steps or not changes or changes[-1]["step"] < span.start,
            f"config.resume_changed=True: the run in {workdir} is at step {span.start} of "
            f"{run.total_steps}, and no step is left to change: give more, or the settings that it "
            "has",
        )
        run = run._replace(changes=changes)
    run, host = prepare.started(run)
    if span.start >= span.end:
        _end_again(run, host)
        return Ended(span.start, span.start, run.total_steps)
    batches = _batches(config, run.train_set, span.start, span.end)

    # What the user has in the workdir was not touched up to this line.
    if processes.is_first_process():
        workdir.mkdir(parents=True, exist_ok=True)
        resume.keep_old(workdir, span.start, run.changes)
        metrics.write_json(workdir / "config.json", config.to_dict())
        if span.start:
            _logger.info("going on from step %d of %d", span.start, run.total_steps)
        sources.announce(run.train_set, again=True)
        supported.say(config.to_dict(), num_examples, run.total_steps, jax.device_count())
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
    with interrupts.during("ends now: the training is saved; the same command evaluates it"):
        _evaluate(run, state)
    return Ended(span.start, span.end, run.total_steps)


def _end_again(run: prepare.Run, host: TrainState) -> None:
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


def _shared(run: prepare.Run, numbers: Hyperparameters) -> tuple[Any, ...]:
    """What every step takes beside state and batch: seed, numbers, perhaps resident images."""
    config, train_set = run.config, run.train_set
    resident = [train_set.images] if config.data.resident else []
    shared: tuple[Any, ...] = spmd.replicate((np.int32(config.seed), numbers, *resident))
    return shared


@contextlib.contextmanager
def _writer(run: prepare.Run) -> Iterator[metrics.Writer | None]:
    """Where the first process writes its numbers; None on the others."""
    if not processes.is_first_process():
        yield None
        return
    patience = " (minutes are normal on a CPU)" * (jax.default_backend() == "cpu")
    _logger.info("compiling the update step%s", patience)
    with contextlib.closing(metrics.Writer(run.workdir, run.span.start)) as writer:
        yield writer


def _train(run: prepare.Run, state: TrainState, batches: background.Batches) -> TrainState:
    """Runs the loop, with all that it shows and writes."""
    config, span = run.config, run.span
    step = mapped_step(run.program, prepare.sizes_of(config) if config.data.resident else None)
    numbers = hyperparameters(config, run.train_set.size, run.total_steps)
    shared = _shared(run, numbers)
    recent = diverged.Recent(span.start, span.log_every)
    decide = checks.deciding(config.to_dict())
    about = diverged.Run(run.workdir, run.program.method, numbers, decide)
    watchdog = watch.watchdog(
        *(checks.flatten(config.to_dict()), run.total_steps, run.train_set.num_classes),
        is_supervised=entry_of(config).needs_labels,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(batches))
        saver = checkpoints.saver(run.checkpoints, config.keep_checkpoints or None, span.start)
        stack.callback(checkpoints.close, saver)
        pace = metrics.Pace(span.start, span.end)
        writer = stack.enter_context(_writer(run))
        show = None
        if writer:
            progress = metrics.Progress(run.total_steps * config.batch_size, "pretrain")
            stack.enter_context(contextlib.closing(progress))
            show = watch.display(writer, progress, config.batch_size, watchdog)
        first = span.start + config.profile.first
        traced = stack.enter_context(
            profiler.traced(run.workdir / "profile", first, config.profile.steps)
        )

        def monitor(done: int, state: TrainState) -> None:
            if writer:
                pace.tell(done)
            every = config.evaluation.knn_every
            if writer and run.data and every and done % every == 0:
                trained = _trained(run, state)
                values = evaluate.monitor(trained, run.data, config.evaluation.to_dict())
                writer.write(done, "test", values)

        def update_step(state: TrainState, batch: Any) -> tuple[TrainState, loop.Logs]:
            state, logs = step(state, batch, *shared)
            recent.keep(batch, logs, update.EMBEDDINGS)
            return state, logs

        return loop.run(
            update_step,
            state,
            spmd.prefetch(batches, config.accumulate, config.data.prefetch),
            span,
            saving=loop.Saving(
                *(saver, run.record, str(run.checkpoints)),
                functools.partial(diverged.explain, about, recent),
            ),
            show=show,
            per_device=update.EMBEDDINGS,
            due=loop.Due(
                before=refresh.when_due(config, run.program, run.train_set),
                after=monitor,
                traced=traced,
                ends=lambda: watchdog.collapse if config.stop_on_collapse else "",
            ),
        )


def _evaluate(run: prepare.Run, state: TrainState) -> None:
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
        with finished(f"step {run.span.end} in {run.checkpoints}"):
            trained = _trained(run, state)
            records = evaluate.evaluate(trained, data, evaluation)
            follow.report(follow.with_terms(records, trained), run.workdir)
