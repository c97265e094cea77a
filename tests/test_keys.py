"""Keyed random numbers against a plain implementation of Philox."""

import zlib

import jax
import numpy as np
import pytest

from byol_jax import keys

MASK = 2**64 - 1


def naive_philox(key: list[int], counter: list[int]) -> list[int]:
    """One block of Philox4x64-10, after Salmon et al. (2011), Section 3.3."""
    (k0, k1), (x0, x1, x2, x3) = key, counter
    for _ in range(10):
        low, high = 0xD2E7470EE14C6C93 * x0, 0xCA5A826395121157 * x2
        x0, x1 = (high >> 64) ^ x1 ^ k0, high & MASK
        x2, x3 = (low >> 64) ^ x3 ^ k1, low & MASK
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return [x0, x1, x2, x3]


def naive_words(seed: int, name: str, counter: list[int], count: int) -> list[int]:
    """The stream that starts after `counter`, whose first word counts the blocks."""
    words: list[int] = []
    for block in range(1, 1 + -(-count // 4)):
        words += naive_philox([seed, zlib.crc32(name.encode())], [block, *counter[1:]])
    return words[:count]


@pytest.mark.parametrize("count", [1, 4, 7])
def test_uniforms_are_the_naive_philox_numbers(count: int) -> None:
    ids, epochs, views = [[0], [3], [2**40]], [5, 0], 2
    uniforms = keys.example_uniforms(11, "crop", ids, epochs, views, count)
    assert uniforms.shape == (3, 2, count) and uniforms.dtype == np.float64
    for row, (example,) in enumerate(ids):
        for column, epoch in enumerate(epochs):
            words = naive_words(11, "crop", [0, example, epoch, views], count)
            assert uniforms[row, column].tolist() == [(word >> 11) / 2**53 for word in words]


def test_uniforms_of_different_keys_share_no_number() -> None:
    """Nor do neighbouring ids, even if more is drawn than one block of four words holds."""
    draws = [
        keys.example_uniforms(seed, name, np.arange(4), epoch, view, 9)
        for seed in (0, 1)
        for name in ("crop", "flip")
        for epoch in (0, 1)
        for view in (1, 2)
    ]
    assert len(np.unique(draws)) == 2 * 2 * 2 * 2 * 4 * 9


def test_uniforms_of_no_example() -> None:
    assert keys.example_uniforms(0, "crop", np.zeros((0, 1)), 0, [1, 2], 4).shape == (0, 2, 4)


def test_permutation_sorts_the_naive_philox_numbers() -> None:
    words = naive_words(5, "draw", [0, 3, 1, 0], 11)
    expected = sorted(range(11), key=words.__getitem__)
    assert keys.permutation(11, "draw", 5, 3, 1).tolist() == expected


def test_permutation_depends_on_every_key() -> None:
    named = [("a", 0), ("b", 0), ("a", 1), ("a", 0, 1), ("a", 0, 0, 1), ("a", 0, 0, 0, 1)]
    orders = {tuple(keys.permutation(30, *key)) for key in [*named, ("a", -1)]}
    assert len(orders) == len(named) + 1
    assert all(sorted(order) == list(range(30)) for order in orders)


def test_named_keys_differ_by_seed_and_name() -> None:
    drawn = [keys.named_key(seed, name) for seed in (0, 1) for name in ("augment", "online")]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in drawn}) == 4
    traced = jax.jit(keys.named_key, static_argnums=1)(1, "augment")
    assert (jax.random.key_data(traced) == jax.random.key_data(drawn[2])).all()
