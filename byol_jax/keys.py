"""Random numbers without generators: each is a function of a seed and of what it is for.

So a resumed run, another number of threads and another number of processes draw the same.
Numpy's Philox is counter-based, and its raw words are fixed by the algorithm, while numpy may
change what its generators make of them. Names are hashed with crc32.
"""

import zlib

import jax
import numpy as np
from numpy.typing import ArrayLike


def named(key: jax.Array, name: str) -> jax.Array:
    """A key for each purpose: a new purpose changes no draw of the others."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def named_key(seed: int | jax.Array, name: str) -> jax.Array:
    """The run's JAX key for one purpose."""
    return named(jax.random.key(seed), name)


def philox(seed: int, name: str, counter: ArrayLike = (0, 0, 0, 0)) -> np.random.Philox:
    """The stream of words keyed on (seed, name) that starts behind `counter`, four words."""
    key = np.array([seed % 2**64, zlib.crc32(name.encode())], np.uint64)
    return np.random.Philox(key=key, counter=np.asarray(counter, np.uint64))


def example_uniforms(
    seed: int, name: str, ids: ArrayLike, epochs: ArrayLike, views: ArrayLike, count: int
) -> np.ndarray:
    """Draws `count` uniforms in [0, 1) for each (id, epoch, view): float64 `[..., count]`.

    `ids`, `epochs` and `views` broadcast against each other. `name` says what the numbers are for;
    numbers of different names, seeds, ids, epochs or views are independent.
    """
    # Word 0 is the one that Philox counts up while drawing, so the streams cannot overlap.
    ids, epochs, views, block = np.broadcast_arrays(ids, epochs, views, 0)
    counters = np.stack([block, ids, epochs, views], axis=-1).astype(np.uint64)
    generator = philox(seed, name)
    state = generator.state
    words = np.empty((counters[..., 0].size, count), np.uint64)
    for row, counter in zip(words, counters.reshape(-1, 4), strict=True):
        # Moving one generator about gives the words of a new one at a fifth of the cost.
        state["state"]["counter"] = counter
        generator.state = state
        row[:] = generator.random_raw(count)
    return ((words >> 11) * 2.0**-53).reshape(*ids.shape, count)


def permutation(count: int, name: str, seed: int, *indices: int) -> np.ndarray:
    """Permutation, int64 `[count]`, keyed on (seed, name, up to three indices)."""
    counter = [0, *indices, *[0] * (3 - len(indices))]
    return np.argsort(philox(seed, name, counter).random_raw(count), kind="stable")
