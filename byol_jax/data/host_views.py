"""T and T' on the host: the device's own augmentations, run by TensorFlow."""

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax import keys
from byol_jax.augment import compose
from byol_jax.data import tensorflow
from byol_jax.data.background import Batch

# T and T' of a batch: rows per call and threads are the caller's (`reader.Transform`).
Augmentation = Callable[[Batch, int, concurrent.futures.Executor], Batch]


def augmentation(seed: int, params: Sequence[compose.AugmentParams]) -> Augmentation:
    """The device's own augmentation of V views as a function of their batches.

    Args:
      seed: seed of the draws.
      params: column of Table 6 of each view, in the order of their numbers.

    Returns:
      Maps `view1` ... `viewV`, uint8 `[b, S_v, S_v, 3]`, to normalised float32 of the same shapes.
    """
    tf = tensorflow.import_tensorflow()

    def convert(view: int) -> Callable[..., Any]:
        def make_views(images: Any, ids: Any, epochs: Any, params: Any) -> Any:
            key = keys.named_key(jnp.int32(seed), "augment")
            return compose.make_views(images, ids, epochs, key, view, params)

        return tensorflow.from_jax(make_views)

    # float32 arguments, as on the device: constants would be computed in double precision.
    numbers = [jax.tree.map(np.float32, column) for column in params]
    functions = {
        f"view{view}": (convert(view), column) for view, column in enumerate(numbers, start=1)
    }

    # Compiled anew for another number of rows.
    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def augmented(views: dict[str, Any], ids: Any, epochs: Any) -> dict[str, Any]:
        return {
            name: function(views[name], ids, epochs, jax.tree.map(tf.constant, column))
            for name, (function, column) in functions.items()
        }

    def augment(batch: Batch, size: int, pool: concurrent.futures.Executor) -> Batch:
        count = len(batch["ids"])

        def augment_chunk(start: int) -> Batch:
            # The last chunk is filled up with the last image.
            rows = np.minimum(np.arange(start, start + size), count - 1)
            views = {name: batch[name][rows] for name in functions}
            made = augmented(views, batch["ids"][rows], batch["epochs"][rows])
            return {name: view.numpy()[: count - start] for name, view in made.items()}

        parts = list(pool.map(augment_chunk, range(0, count, size)))
        return {name: np.concatenate([part[name] for part in parts]) for name in functions}

    return augment
