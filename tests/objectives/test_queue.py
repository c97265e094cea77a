"""The queue of keys: where it is written, and the loss against it, beside a loop."""

import jax
import jax.numpy as jnp
import numpy as np

from byol_jax.objectives import moco, queue


def test_keys_replace_the_oldest_and_go_round() -> None:
    array, start = np.zeros((6, 1)), jnp.int32(0)
    for step in range(4):
        rows = queue.enqueue(6, start, [jnp.full((2, 1), 10 * step), jnp.full((1, 1), step)], None)
        array[np.asarray(rows.at)] = rows.values
        start = queue.behind(rows, 6)
        assert start == 3 * (step + 1) % 6
    assert array[:, 0].tolist() == [20, 20, 2, 30, 30, 3]


def test_loss_and_ranks_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    query, key, negatives = (rng.normal(size=(count, 4)) for count in (5, 5, 7))
    with jax.enable_x64(True):
        logits = queue.logits(*map(jnp.asarray, (query, key, negatives)), 0.3)
        losses, ranked = queue.cross_entropy(logits), [queue.top(logits, k) for k in (1, 3)]
    scores = [
        [q @ k / 0.3, *(q @ n / 0.3 for n in negatives)] for q, k in zip(query, key, strict=True)
    ]
    expected = [-np.log(np.exp(s[0]) / np.sum(np.exp(s))) for s in scores]
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    for k, percent in zip((1, 3), ranked, strict=True):
        hits = [sorted(s)[::-1].index(s[0]) < k for s in scores]
        np.testing.assert_allclose(percent, 100 * np.mean(hits))


def test_a_collapsed_network_finds_no_key() -> None:
    """A tie is a miss."""
    assert queue.top(jnp.zeros((3, 5)), 1) == 0


def test_both_directions_are_the_sum_of_one_and_its_mirror() -> None:
    rng = np.random.default_rng(1)
    online, target = (
        {v: {"projection": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)} for v in (1, 2)}
        for _ in range(2)
    )
    one, both = moco.moco(0.2, 12), moco.moco(0.2, 12, symmetric=True)
    state = one.init(jax.random.key(0), online, 1)[1]
    rest = ({}, state, jax.random.key(0), jnp.int32(0))
    result = both.loss({}, online, target, *rest)
    mirrored = [{1: views[2], 2: views[1]} for views in (online, target)]
    first, second = one.loss({}, online, target, *rest), one.loss({}, *mirrored, *rest)
    np.testing.assert_allclose(
        result.per_example, first.per_example + second.per_example, rtol=1e-6
    )
    assert result.state["next"] == 6
    # Those of view 1 first.
    keys = np.concatenate([second.rows["queue"].values, first.rows["queue"].values])
    np.testing.assert_array_equal(result.rows["queue"].values, keys)
    assert result.rows["queue"].at.tolist() == [0, 1, 2, 3, 4, 5]
