"""The pre-training job: batch, update, log, save, now and then evaluate."""

import contextlib
import functools
import logging
import pathlib
import signal
from typing import Any, NamedTuple

import haiku as hk
import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from byol_jax import update, weights
from byol_jax.data import background, images, pipeline, sources, stored
from byol_jax.errors import Diverged, Stopped, require
from byol_jax.evals import evaluate, follow
from byol_jax.method import check, hyperparameters, method_of, view_parameters
from byol_jax.networks import siamese
from byol_jax.runtime import checkpoints, interrupts, metrics, processes, profiler, spmd

_logger = logging.getLogger(__name__)


def network_of(config: ml_collections.ConfigDict, num_classes: int) -> hk.TransformedWithState:
    """The network of a config, with a probe for so many classes."""
    return siamese.siamese(
        siamese.make_spec(config.network.to_dict(), num_classes, spmd.AXIS, config.precision)
    )


@functools.lru_cache(maxsize=2)
def mapped_step(
    network: hk.TransformedWithState,
    method: update.Method,
    image_size: int | None = None,
    devices: tuple[jax.Device, ...] | None = None,
) -> Any:
    """One compiled step for all runs of a method: their numbers are traced.

    It takes a state, which it uses up, a batch, the seed and the hyperparameters, each with a
    leading device axis, and is for the devices that there are if no others are named. With an
    `image_size` it takes resident images, too.
    """
    step = functools.partial(
        update.train_step,
        network=network,
        method=method,
        axis=spmd.AXIS,
        image_size=image_size,
    )
    return spmd.pmap(step, donate_argnums=(0,), devices=devices)


def load_images(config: ml_collections.ConfigDict) -> images.ImageSet:
    """What a config trains on; without labels where an image has several, as the probe has one.

    Raises:
      UserError: if it cannot be read.
    """
    require(config.dataset, f"config.dataset is needed: {', '.join(sources.KINDS)}")
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
    stream: dict[str, Any] = {
        "seed": config.seed,
        "image_size": config.image_size,
        "batch_size": config.batch_size,
        "micro_batches": config.accumulate,
        "start_step": start,
        "num_steps": end,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
        "area_range": (config.data.area_min, config.data.area_max),
        "aspect_range": (config.data.aspect_min, config.data.aspect_max),
        "same_crop": config.data.same_crop,
        "prefetch": config.data.prefetch,
    }
    if config.data.resident:
        return pipeline.train_boxes(train_set, **stream)
    on_host = config.augment.placement == "host"
    return pipeline.train_batches(
        train_set,
        **stream,
        exif=config.data.exif,
        scaled=config.data.scaled_decoding,
        host_views=view_parameters(config) if on_host else None,
        num_threads=config.data.threads,
        address=config.data.service,
    )


def _restore(directory: pathlib.Path, state: update.TrainState) -> tuple[update.TrainState, int]:
    """The newest state in the workdir and its step, or the given state and 0."""
    found = checkpoints.steps(directory)
    if not found:
        return state, 0
    flat, _ = checkpoints.read(directory, found[-1])
    state = checkpoints.fill(state, flat, f"checkpoint {directory / str(found[-1])}")
    return state, found[-1]


def _save(
    manager: ocp.CheckpointManager | None, state: update.TrainState, record: dict[str, Any]
) -> update.TrainState:
    """Starts saving the device state; returns its host copy.

    Waits for the step that made it, and so for that step's verdict on itself. What is
    saved is the last good state, which a resumed run may continue.
    """
    host = spmd.to_host(state)
    good = host._replace(finite=np.ones((), bool))
    checkpoints.save(manager, int(host.step), good, record)
    return host


def _weights(host: update.TrainState, record: dict[str, Any]) -> weights.Trained:
    return weights.trained_of(
        record,
        int(host.step),
        online_params=host.online_params,
        online_state=host.online_state,
        target_params=host.target_params,
        target_state=host.target_state,
    )


class _Display(NamedTuple):
    """Where the first process shows and writes its numbers."""

    writer: metrics.Writer
    progress: metrics.Progress

    def show(self, done: int, logs: dict[str, jax.Array], batch_size: int) -> bool:
        """Fetches and writes the logs of update number `done`; returns whether it was finite."""
        values = {name: float(value) for name, value in spmd.to_host(logs).items()}
        finite = bool(values.pop("finite"))
        self.writer.write(done, "train", values)
        self.progress.advance(
            done * batch_size,
            f"step {done} loss {values['loss']:.3f} std {values['projection_std']:.2f}",
        )
        return finite


def pretrain(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains, resuming by itself from the newest checkpoint in `workdir`.

    Raises:
      UserError: for a config or a workdir that does not fit, before anything is written.
      Diverged: when a number is not finite; the last good state is saved.
      Stopped: after SIGINT or SIGTERM, with the state saved.
    """
    check(config)
    train_set = load_images(config)
    resident = None
    if config.data.resident:
        train_set = _in_memory(train_set, config)
        resident = train_set.images
    num_examples = train_set.size
    evaluation = config.evaluation.to_dict()
    data = None
    if evaluation["at_end"] or evaluation["knn_every"]:
        data = evaluate.load(
            config.dataset,
            image_size=config.image_size,
            eval_crop=config.data.eval_crop,
            fit_split=evaluation["fit_split"],
            score_split=evaluation["score_split"],
            data_dir=config.data_dir,
            exif=config.data.exif,
            batch_size=evaluation["batch_size"],
        )
        require(
            not (evaluation["knn_every"] and data.fit.multi_label),
            f"config.evaluation.knn_every={evaluation['knn_every']}: {config.dataset} has several "
            "classes an image, kNN knows one; give 0",
        )
    total_steps = config.num_steps or pipeline.steps_for(
        config.num_epochs, num_examples, config.batch_size
    )
    end = min(config.stop_at or total_steps, total_steps)

    network = network_of(config, train_set.num_classes)
    method = method_of(config)
    initial = update.init(config.seed, network, config.image_size, method, config.target_init)
    directory = workdir / "checkpoints"
    host, start = _restore(directory, jax.device_get(initial))
    processes.require_same(
        {"the newest checkpoint in --workdir": start, "images in config.dataset": num_examples}
    )
    batches = _batches(config, train_set, start, max(start, end))

    # Whatever the user has in the workdir is as it was up to this line.
    is_first = processes.is_first_process()
    record = {
        "config": config.to_dict(),
        "num_classes": train_set.num_classes,
        "total_steps": total_steps,
    }
    if is_first:
        workdir.mkdir(parents=True, exist_ok=True)
        metrics.write_json(workdir / "config.json", record["config"])
    _logger.info(
        "recipe: %s; steps %d to %d of %d; %d images, batch %d on %d device(s)",
        config.recipe,
        start,
        end,
        total_steps,
        num_examples,
        config.batch_size,
        jax.device_count(),
    )

    train_step = mapped_step(network, method, None if resident is None else config.image_size)
    state = spmd.replicate(host)
    kept = () if resident is None else (spmd.replicate(resident),)
    seed = spmd.replicate(np.int32(config.seed))
    hparams = spmd.replicate(hyperparameters(config, num_examples, total_steps))

    with contextlib.ExitStack() as stack:
        signal_number = stack.enter_context(interrupts.signals())
        stack.enter_context(contextlib.closing(batches))
        manager = checkpoints.saver(directory, config.keep_checkpoints or None)
        stack.callback(checkpoints.close, manager)
        display = None
        if is_first:
            writer = stack.enter_context(contextlib.closing(metrics.Writer(workdir, start)))
            progress = metrics.Progress(total_steps * config.batch_size, "pretrain")
            display = _Display(writer, stack.enter_context(contextlib.closing(progress)))
            _logger.info("compiling the update step")

        profile = stack.enter_context(
            profiler.traced(workdir / "profile", start + config.profile.first, config.profile.steps)
        )
        done, finite, stopping, late = start, True, False, None
        limit = spmd.limit_ahead()
        for batch in spmd.prefetch(batches, config.accumulate, config.data.prefetch):
            with jax.profiler.StepTraceAnnotation("step", step_num=done + 1):
                state, logs = train_step(state, batch, seed, hparams, *kept)
            limit(logs)
            done += 1
            profile(done, logs)
            # Logs are fetched one step late, while the next step is already running.
            if display and late:
                finite = display.show(*late, config.batch_size)
            is_logged = done % config.log_every == 0 or done in (start + 1, end)
            late = (done, logs) if is_logged else None
            if jax.process_count() == 1 or is_logged:
                stopping = processes.any_process(bool(signal_number()) or not finite)
            if stopping:
                break
            if done % config.checkpoint_every == 0 and done < end:
                finite = bool(_save(manager, state, record).finite)
            if display and data and evaluation["knn_every"] and done % evaluation["knn_every"] == 0:
                online = _weights(spmd.to_host(state), record)
                display.writer.write(done, "test", evaluate.monitor(online, data, evaluation))
        if display and late:
            display.show(*late, config.batch_size)
        if done > start:
            host = _save(manager, state, record)
            checkpoints.finish(manager)
            processes.wait_for_all()
        saved = directory / str(host.step)
        if not host.finite:
            raise Diverged(
                f"a loss or an update of step {int(host.step) + 1} is not finite: the state "
                f"before it is saved in {saved}; lower config.optimizer.base_learning_rate, "
                "or look at the images of that batch"
            )
        if signal_number() or (stopping and finite):
            name = signal.Signals(signal_number() or signal.SIGTERM).name
            raise Stopped(
                signal_number() or signal.SIGTERM,
                f"stopped by {name}: saved in {saved}; the same command goes on from there",
            )

    if end < total_steps:
        _logger.info("ended at config.stop_at=%d, saved in %s", end, saved)
    elif evaluation["at_end"] and data and data.fit.size > evaluate.LARGEST:
        _logger.info("not evaluated on %d images: experiments/evaluate.py does", data.fit.size)
    elif evaluation["at_end"] and data and is_first:
        follow.report(evaluate.evaluate(_weights(host, record), data, evaluation), workdir)
