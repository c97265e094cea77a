"""Splitting, replicating and mapping over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax import distributed
from byol_jax.errors import UserError


def test_shard_deals_micro_batches_to_devices():
    devices = jax.devices()[:2]
    batch = np.arange(8)
    np.testing.assert_array_equal(
        distributed.shard(batch, devices=devices), [[0, 1, 2, 3], [4, 5, 6, 7]]
    )
    # Micro-batch 0 is 0..3, micro-batch 1 is 4..7; each device gets half of each.
    np.testing.assert_array_equal(
        distributed.shard(batch, micro_batches=2, devices=devices),
        [[[0, 1], [4, 5]], [[2, 3], [6, 7]]],
    )


def test_replicate_and_back():
    tree = {"a": np.arange(3, dtype=np.float32), "b": np.int32(7)}
    there = distributed.replicate(tree)
    assert there["a"].shape == (jax.local_device_count(), 3)
    back = distributed.to_host(there)
    jax.tree.map(np.testing.assert_array_equal, tree, back)


def test_to_host_copies_survive_a_donation():
    step = distributed.pmap(lambda x: x + 1, donate_argnums=(0,))
    state = distributed.replicate(np.zeros(1000, np.float32))
    host = distributed.to_host(state)
    for _ in range(3):
        state = step(state)
    np.testing.assert_array_equal(host, 0)


def test_rows_of_all_devices_are_gathered_in_order():
    rows = np.arange(12, dtype=np.float32).reshape(2, 2, 3)

    def gathered(x):
        return (
            distributed.axis_index(distributed.AXIS),
            distributed.all_gather(x, distributed.AXIS),
        )

    index, everywhere = distributed.pmap(gathered, devices=jax.devices()[:2])(rows)
    np.testing.assert_array_equal(index, [0, 1])
    for device in range(2):
        np.testing.assert_array_equal(everywhere[device], rows.reshape(4, 3))
    x = jnp.ones((2, 3))
    assert distributed.all_gather(x, None) is x
    assert distributed.axis_index(None) == 0


@pytest.mark.parametrize("replicas", [2, 4])
def test_gradients_through_gathered_rows_average_to_that_of_the_whole(replicas):
    x = jnp.arange(1.0, 9.0)

    def gradient(scale, x, axis):
        def mean_loss(scale):
            z = scale * x
            # Row i with the square of every other row: the mean of z_i (sum_j z_j^2).
            return jnp.mean(z * jnp.sum(distributed.all_gather(z, axis) ** 2))

        return distributed.pmean(jax.grad(mean_loss)(scale), axis)

    # scale^3 x mean(x) x sum(x^2) = scale^3 x 4.5 x 204, at 2.
    np.testing.assert_allclose(gradient(2.0, x, None), 3 * 4 * 4.5 * 204)
    mapped = {
        2: distributed.pmap(lambda x: gradient(2.0, x, distributed.AXIS)),
        4: jax.vmap(lambda x: gradient(2.0, x, distributed.AXIS), axis_name=distributed.AXIS),
    }[replicas]
    np.testing.assert_allclose(mapped(x.reshape(replicas, -1)), 3 * 4 * 4.5 * 204)


@pytest.mark.parametrize("count", [1, 5, 8, 13])
def test_map_batches_keeps_order_for_any_number_of_rows(count):
    array = np.arange(count * 3, dtype=np.float32).reshape(count, 3)
    out = distributed.map_batches(
        lambda x: {"sum": jnp.sum(x, axis=1), "twice": 2 * x},
        (array[i : i + 4] for i in range(0, count, 4)),
        batch_size=4,
    )
    np.testing.assert_array_equal(out["sum"], array.sum(axis=1))
    np.testing.assert_array_equal(out["twice"], 2 * array)


@pytest.mark.parametrize("depth", [0, 1, 2, 9])
def test_prefetch_keeps_every_batch_in_order(depth):
    batches = [np.full(4, i) for i in range(5)]
    out = list(distributed.prefetch(iter(batches), 1, depth=depth))
    assert [int(b[0, 0]) for b in out] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("batch_size", "micro_batches", "message"),
    [
        (9, 1, "does not divide over 2 devices: batch_size=10 would"),
        (8, 3, "does not divide into accumulate=3"),
        (8, 0, "accumulate=0 must be at least 1"),
        (6, 2, "does not divide over 2 devices: batch_size=8 would"),
        (0, 1, "batch_size=0"),
    ],
)
def test_batches_that_do_not_divide(batch_size, micro_batches, message):
    with pytest.raises(UserError, match=message):
        distributed.check_batch(batch_size, micro_batches)


def test_batch_that_divides():
    distributed.check_batch(8, 2)


def test_batches_for_devices_that_are_not_here():
    distributed.check_batch(16, 2, devices=8)
    with pytest.raises(UserError, match="does not divide over 8 devices: batch_size=16 would"):
        distributed.check_batch(8, 2, devices=8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("localhost:1", 2, None), "all of --coordinator"),
        (("localhost:1", 2, 2), "from 0 to --num_processes - 1 = 1"),
    ],
)
def test_incomplete_multi_process_flags(arguments, message):
    with pytest.raises(UserError, match=message):
        distributed.initialize(*arguments)


def test_the_host_waits_for_the_step_before_the_last_two(monkeypatch):
    waited = []
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    limit = distributed.limit_ahead(2)
    for step in range(5):
        limit(step)
    assert waited == [0, 1, 2]
