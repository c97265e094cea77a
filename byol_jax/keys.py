"""Random numbers without generators: each is a function of a seed and of its purpose.

A resumed run therefore draws the same numbers, and so does a run with other numbers of threads or
processes. Numpy's Philox is counter-based. Its raw words are fixed by the algorithm, whereas the
numbers that numpy's generators derive from them may change. Names are hashed with crc32.
"""

import zlib

import jax
import numpy as np
from numpy.typing import ArrayLike


def named(key: jax.Array, name: str) -> jax.Array:
    """The key for one purpose. Adding a purpose changes no draw for the others."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def named_key(seed: int | jax.Array, name: str) -> jax.Array:
    """The run's JAX key for one purpose."""
    return named(jax.random.key(seed), name)


def philox(seed: int, name: str, counter: ArrayLike = (0, 0, 0, 0)) -> np.random.Philox:
    """The stream of words keyed on (seed, name) that starts after `counter` (four words)."""
    key = np.array([seed % 2**64, zlib.crc32(name.encode())], np.uint64)
    return np.random.Philox(key=key, counter=np.asarray(counter, np.uint64))


def example_uniforms(
    seed: int, name: str, ids: ArrayLike, epochs: ArrayLike, views: ArrayLike, count: int
) -> np.ndarray:
    """Draws `count` uniforms in [0, 1) per (id, epoch, view): float64 `[..., count]`.

    `ids`, `epochs` and `views` broadcast against each other. `name` is the purpose of the numbers.
    Numbers for different names, seeds, ids, epochs or views are independent.
    """
    # Philox counts up word 0 while it draws, so streams that differ in another word never overlap.
    ids, epochs, views, block = np.broadcast_arrays(ids, epochs, views, 0)
    counters = np.stack([block, ids, epochs, views], axis=-1).astype(np.uint64)
    generator = philox(seed, name)
    state = generator.state
    words = np.empty((counters[..., 0].size, count), np.uint64)
    for row, counter in zip(words, counters.reshape(-1, 4), strict=True):
        # Resetting the counter of one generator costs a fifth of making a new generator.
        state["state"]["counter"] = counter
        generator.state = state
        row[:] = generator.random_raw(count)
    return ((words >> 11) * 2.0**-53).reshape(*ids.shape, count)


def permutation(count: int, name: str, seed: int, *indices: int) -> np.ndarray:
    """A permutation, int64 `[count]`, keyed on (seed, name, up to three indices)."""
    counter = [0, *indices, *[0] * (3 - len(indices))]
    return np.argsort(philox(seed, name, counter).random_raw(count), kind="stable")
