"""Splitting, replicating and mapping over devices."""

import socket

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byol_jax.errors import UserError
from byol_jax.runtime import processes, spmd


def test_shard_deals_micro_batches_to_devices():
    devices = jax.devices()[:2]
    batch = np.arange(8)
    np.testing.assert_array_equal(spmd.shard(batch, devices=devices), [[0, 1, 2, 3], [4, 5, 6, 7]])
    # Micro-batch 0 is 0..3, micro-batch 1 is 4..7; each device gets half of each.
    np.testing.assert_array_equal(
        spmd.shard(batch, micro_batches=2, devices=devices),
        [[[0, 1], [4, 5]], [[2, 3], [6, 7]]],
    )


def test_replicate_and_back():
    tree = {"a": np.arange(3, dtype=np.float32), "b": np.int32(7)}
    there = spmd.replicate(tree)
    assert there["a"].shape == (jax.local_device_count(), 3)
    back = spmd.to_host(there)
    jax.tree.map(np.testing.assert_array_equal, tree, back)


def test_to_host_copies_survive_a_donation():
    step = spmd.pmap(lambda x: x + 1, donate_argnums=(0,))
    state = spmd.replicate(np.zeros(1000, np.float32))
    host = spmd.to_host(state)
    for _ in range(3):
        state = step(state)
    np.testing.assert_array_equal(host, 0)


def test_rows_of_all_devices_are_gathered_in_order():
    rows = np.arange(12, dtype=np.float32).reshape(2, 2, 3)

    def gathered(x):
        return (
            spmd.axis_index(spmd.AXIS),
            spmd.all_gather(x, spmd.AXIS),
        )

    index, everywhere = spmd.pmap(gathered, devices=jax.devices()[:2])(rows)
    np.testing.assert_array_equal(index, [0, 1])
    for device in range(2):
        np.testing.assert_array_equal(everywhere[device], rows.reshape(4, 3))
    x = jnp.ones((2, 3))
    assert spmd.all_gather(x, None) is x
    assert spmd.axis_index(None) == 0


@pytest.mark.parametrize("replicas", [2, 4])
def test_gradients_through_gathered_rows_average_to_the_gradient_of_the_whole(replicas):
    x = jnp.arange(1.0, 9.0)

    def gradient(scale, x, axis):
        def mean_loss(scale):
            z = scale * x
            # Row i with the square of every other row: the mean of z_i (sum_j z_j^2).
            return jnp.mean(z * jnp.sum(spmd.all_gather(z, axis) ** 2))

        return spmd.pmean(jax.grad(mean_loss)(scale), axis)

    # scale^3 x mean(x) x sum(x^2) = scale^3 x 4.5 x 204, at 2.
    np.testing.assert_allclose(gradient(2.0, x, None), 3 * 4 * 4.5 * 204)
    mapped = {
        2: spmd.pmap(lambda x: gradient(2.0, x, spmd.AXIS)),
        4: jax.vmap(lambda x: gradient(2.0, x, spmd.AXIS), axis_name=spmd.AXIS),
    }[replicas]
    np.testing.assert_allclose(mapped(x.reshape(replicas, -1)), 3 * 4 * 4.5 * 204)


@pytest.mark.parametrize("most", [None, 13, 20])
@pytest.mark.parametrize("count", [1, 5, 8, 13])
def test_map_batches_keeps_order_for_any_number_of_rows(count, most):
    array = np.arange(count * 3, dtype=np.float32).reshape(count, 3)
    out = spmd.map_batches(
        lambda x: {"sum": jnp.sum(x, axis=1), "twice": 2 * x},
        (array[i : i + 4] for i in range(0, count, 4)),
        batch_size=4,
        most=most,
    )
    np.testing.assert_array_equal(out["sum"], array.sum(axis=1))
    np.testing.assert_array_equal(out["twice"], 2 * array)


@pytest.mark.parametrize("depth", [0, 1, 2, 9])
def test_prefetch_keeps_every_batch_in_order(depth):
    batches = [np.full(4, i) for i in range(5)]
    out = list(spmd.prefetch(iter(batches), 1, depth=depth))
    assert [int(b[0, 0]) for b in out] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("batch_size", "micro_batches", "keys"),
    [
        (9, 1, "batch_size=9 .*2 devices.*batch_size=10"),
        (8, 3, "batch_size=8 .*accumulate=3"),
        (8, 0, "accumulate=0"),
        (6, 2, "batch_size=6 .*2 devices.*batch_size=8"),
        (0, 1, "batch_size=0"),
    ],
)
def test_batches_that_do_not_divide(batch_size, micro_batches, keys):
    with pytest.raises(UserError, match=keys):
        spmd.check_batch(batch_size, micro_batches)


def test_batch_that_divides():
    spmd.check_batch(8, 2)


def test_batches_for_devices_of_another_machine():
    spmd.check_batch(16, 2, devices=8)
    with pytest.raises(UserError, match=r"batch_size=8 .*8 devices.*batch_size=16"):
        spmd.check_batch(8, 2, devices=8)


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (("localhost:1", 2, None), "--coordinator.*--num_processes.*--process_id"),
        (("localhost:1", None, None), "--coordinator.*--num_processes.*--process_id"),
        ((None, 2, 0), "--coordinator.*--num_processes.*--process_id"),
        ((None, None, 0), "--coordinator.*--num_processes.*--process_id"),
        (("localhost:1", 2, 2), "--process_id=2"),
        (("localhost:1", 2, -1), "--process_id=-1"),
        (("localhost:1", 0, 0), "--process_id=0"),
        (("", 2, 0), "--coordinator= "),
        (("localhost", 2, 0), "--coordinator=localhost "),
        (("localhost:port", 2, 0), "--coordinator=localhost:port "),
        (("localhost:99999", 2, 0), "--coordinator=localhost:99999 "),
        ((None, None, None, 0), "--join_timeout=0"),
        ((None, None, None, 9, -1), "--peer_timeout=-1"),
    ],
)
def test_flags_that_no_processes_could_use(arguments, flag):
    with pytest.raises(UserError, match=flag):
        processes.initialize(processes.Hosts(*arguments))


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"--coordinator=localhost:{port}"):
            processes.initialize(processes.Hosts(f"localhost:{port}", 2, 0))


@pytest.mark.parametrize(
    ("variables", "started"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "4"}, False),  # in the batch script itself, outside of a step
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "a[1-4]"}, True),
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "a1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
    ],
)
def test_environments_in_which_processes_join(monkeypatch, variables, started):
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: joined.append((a, k)))
    monkeypatch.setattr(jax.config, "update", lambda *a: None)
    for name in ("SLURM_NTASKS", "SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    processes.initialize(processes.Hosts(peer_timeout=7))
    assert len(joined) == started
    for arguments, settings in joined:
        assert arguments == (None, None, None)
        assert settings["heartbeat_timeout_seconds"] == 7
    processes.initialize(processes.Hosts(num_processes=1))  # alone in any environment
    assert len(joined) == started


def test_a_single_process_compares_nothing_and_loses_no_peer():
    processes.require_same({"config.seed": object()})
    assert not processes.is_joined()
    assert not processes.is_lost_peer(jax.errors.JaxRuntimeError("UNAVAILABLE: gone"))


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("UNKNOWN: Gloo all-reduce failed: Connection reset by peer", True),
        ("UNAVAILABLE: Failed to send RPC to coordination service", True),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 4 bytes", False),
        ("INTERNAL: a program that does not compile", False),
    ],
)
def test_errors_that_mean_a_lost_peer(monkeypatch, message, lost):
    monkeypatch.setattr(processes, "is_joined", lambda: True)
    assert processes.is_lost_peer(jax.errors.JaxRuntimeError(message)) is lost
    assert not processes.is_lost_peer(ValueError(message))


def test_the_host_waits_for_the_step_before_the_last_two(monkeypatch):
    waited = []
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    limit = spmd.limit_ahead(2)
    for step in range(5):
        limit(step)
    assert waited == [0, 1, 2]


def test_rows_of_local_devices_are_joined_in_their_order():
    count = len(jax.local_devices())
    rows = np.arange(count * 6, dtype=np.float32).reshape(count, 3, 2)
    array = spmd.pmap(lambda x: x + 1)(rows)
    np.testing.assert_array_equal(spmd.local_rows(array), rows.reshape(-1, 2) + 1)
