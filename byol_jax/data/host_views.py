"""T and T' on the host: the device's own augmentations as a function for tf.data."""

import concurrent.futures
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import keys
from byol_jax.augment import compose
from byol_jax.data import tensorflow
from byol_jax.data.background import Batch

# A TensorFlow function of views by name, ids and epochs; compiled anew for another number of them.
Augmentation = Callable[[dict[str, Any], Any, Any], dict[str, Any]]


def augmentation(
    seed: int, params: tuple[compose.AugmentParams, compose.AugmentParams]
) -> Augmentation:
    """The device's own augmentation of both views, T and T', as a function for tf.data."""
    tf = tensorflow.import_tensorflow()

    def convert(view: int) -> Callable[..., Any]:
        def make_views(images: Any, ids: Any, epochs: Any, params: Any) -> Any:
            key = keys.named_key(jnp.int32(seed), "augment")
            return compose.make_views(images, ids, epochs, key, view, params)

        return tensorflow.from_jax(make_views)

    functions = [convert(view) for view in (1, 2)]
    # float32 arguments, as on the device: constants would be computed in double precision.
    numbers = [jax.tree.map(np.float32, column) for column in params]

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def augmented(views: dict[str, Any], ids: Any, epochs: Any) -> dict[str, Any]:
        return {
            name: function(views[name], ids, epochs, jax.tree.map(tf.constant, number))
            for name, function, number in zip(views, functions, numbers, strict=True)
        }

    result: Augmentation = augmented
    return result


def augment_batch(
    augmentation: Augmentation, batch: Batch, size: int, pool: concurrent.futures.Executor
) -> Batch:
    """The views of a batch, augmented in chunks of one size, filled up with the last image."""
    names = [name for name in batch if name.startswith("view")]
    count = len(batch["ids"])

    def augment_chunk(start: int) -> Batch:
        rows = np.minimum(np.arange(start, start + size), count - 1)
        views = {name: batch[name][rows] for name in names}
        augmented = augmentation(views, batch["ids"][rows], batch["epochs"][rows])
        return {name: augmented[name].numpy()[: count - start] for name in names}

    parts = list(pool.map(augment_chunk, range(0, count, size)))
    return {name: np.concatenate([part[name] for part in parts]) for name in names}
