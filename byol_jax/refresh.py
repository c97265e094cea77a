"""Between two steps: what an objective makes anew, and the features that it makes it of."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from byol_jax import keys
from byol_jax.augment import compose
from byol_jax.data import images, pipeline
from byol_jax.data.views import Reading, Stream
from byol_jax.entries import numbers_of
from byol_jax.evals import features
from byol_jax.method import views_of
from byol_jax.program import Program, TrainState, forward, refresh
from byol_jax.runtime import spmd

Features = tuple[dict[str, np.ndarray], np.ndarray]
# Outputs of the network that an objective may ask for.
OUTPUTS = ("embedding", "projection")


def when_due(
    config: ml_collections.ConfigDict, program: Program, train_set: images.ImageSet
) -> Callable[[int, TrainState], TrainState]:
    """The work before a step, for `loop.Due`."""
    objective = program.method.objective(**numbers_of(config))

    def before(step: int, state: TrainState) -> TrainState:
        which = objective.when(step, train_set.size, config.batch_size)
        if objective.refresh is None or which is None:
            return state
        if not spmd.to_host(state.finite):  # the last good state stays as it is
            return state
        found, ids = None, None
        if which != "none":
            make = {"eval": evaluation_features, "train": training_features}[which]
            found, ids = make(config, program, train_set, state)
        old = spmd.to_host((state.objective_params, state.objective_state))
        made = refresh(objective, program.method, config.seed, step, old, found, ids)
        # Clusters of features that differ by a rounding may differ as a whole.
        new = spmd.replicate(spmd.from_first_process(jax.device_get(made)))
        slots = {slot: {**own, **new.slots.get(slot, {})} for slot, own in state.slots.items()}
        return state._replace(
            objective_params=new.objective_params,
            objective_state=new.objective_state,
            slots=slots,
        )

    return before


def evaluation_features(
    config: ml_collections.ConfigDict,
    program: Program,
    train_set: images.ImageSet,
    state: TrainState,
) -> Features:
    """Outputs for the evaluation crop of each image, BatchNorm on its averages, in id order.

    Returns:
      float32 `[N, ...]` by name; ids, int32 `[N]`, without those of images that cannot be read.
    """
    ids: list[np.ndarray] = []

    def crops() -> Any:
        for batch in pipeline.evaluation_batches(
            train_set,
            image_size=config.image_size,
            mode=config.data.eval_crop,
            batch_size=config.evaluation.batch_size,
            exif=config.data.exif,
        ):
            ids.append(batch["ids"])
            yield batch["images"]

    params, bn_state = spmd.to_host((state.online_params, state.online_state))
    values = features.extract(
        program.network,
        params,
        bn_state,
        crops(),
        outputs=OUTPUTS,
        batch_size=config.evaluation.batch_size,
    )
    return values, np.concatenate(ids)


@functools.lru_cache(maxsize=2)
def _training_outputs(program: Program) -> Any:
    def outputs(state: TrainState, batch: Any, seed: jax.Array, columns: Any) -> Any:
        key = keys.named_key(seed, "augment")
        views = {
            v: compose.make_views(batch[f"view{v}"], batch["ids"], batch["epochs"], key, v, column)
            for v, column in enumerate(columns, start=1)
        }
        by_view, _ = forward(
            program.network,
            state.online_params,
            state.online_state,
            views,
            program.method.passes,
            "online",
        )
        return {f"view{v}/{name}": by_view[v][name] for v in by_view for name in OUTPUTS}

    return spmd.pmap(outputs)


def training_features(
    config: ml_collections.ConfigDict,
    program: Program,
    train_set: images.ImageSet,
    state: TrainState,
) -> Features:
    """Outputs for the views of one epoch, BatchNorm on the statistics of each batch.

    The views are those of the whole batches in the epoch that the run is in; the averages of
    BatchNorm do not move. All processes take part, and each gets all rows.

    Returns:
      float32 `[N, ...]` by names such as `view1/projection`; ids, int32 `[N]`.
    """
    size, step = config.batch_size, int(spmd.to_host(state.step))
    # The epoch of the first image of the next batch.
    epoch = step * size // train_set.size
    start = -(-epoch * train_set.size // size)
    count = (epoch + 1) * train_set.size // size - start
    views = views_of(config)
    stream = Stream(
        config.seed,
        train_set.size,
        size,
        start=start,
        stop=start + count,
        process=(jax.process_index(), jax.process_count()),
    )
    reading = Reading(exif=config.data.exif, threads=config.data.threads)
    shared = spmd.replicate((np.int32(config.seed), tuple(view.params for view in views)))
    function = _training_outputs(program)
    rows: list[dict[str, np.ndarray]] = []
    with contextlib.closing(pipeline.train_batches(train_set, stream, views, reading)) as batches:
        for batch in batches:
            sharded = spmd.shard(batch)
            made = function(state, {k: sharded[k] for k in sharded if k != "labels"}, *shared)
            local = {name: np.asarray(x).reshape(-1, *x.shape[2:]) for name, x in made.items()}
            rows.append({**local, "ids": batch["ids"]})
    values = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    if jax.process_count() > 1:
        values = {
            name: (whole := spmd.gather_from_processes(x)).reshape(-1, *whole.shape[2:])
            for name, x in values.items()
        }
    return values, values.pop("ids").astype(np.int32)
