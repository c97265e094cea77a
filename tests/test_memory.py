"""What a run holds on a device: one state, and what its step needs."""

import pathlib

import jax
import pytest

import tiny_runs
from byol_jax import prepare, train
from byol_jax.jobs.preflight import pretraining, report
from byol_jax.jobs.preflight.chips import CHIPS, Pod
from byol_jax.program import TrainState, init_state
from byol_jax.runtime import metrics


def held(device: jax.Device) -> int:
    """Bytes of the arrays that are alive on a device."""
    return sum(
        shard.data.nbytes
        for array in jax.live_arrays()
        for shard in array.addressable_shards
        if shard.device == device
    )


@pytest.fixture
def config(tmp_path: pathlib.Path):
    return tiny_runs.tiny_config(tiny_runs.write_npz(tmp_path / "images.npz"), num_steps=3)


@pytest.mark.slow
@pytest.mark.parametrize("from_checkpoint", [False, True], ids=["from nothing", "resumed"])
def test_a_run_holds_one_state(config, tmp_path, monkeypatch, from_checkpoint) -> None:
    """Two would be 2: the first one that was drawn, or what was read, must not live on."""
    workdir = tmp_path / "run"
    if from_checkpoint:
        first = config.copy_and_resolve_references()
        first.stop_at = 1
        train.pretrain(first, workdir)
    device = jax.local_devices()[0]
    before = held(device)
    seen: dict[int, int] = {}
    write = metrics.Writer.write

    def spy(self: metrics.Writer, step: int, *arguments: object) -> None:
        seen[step] = held(device) - before
        write(self, step, *arguments)

    monkeypatch.setattr(metrics.Writer, "write", spy)
    train.pretrain(config, workdir)
    program, sizes = prepare.program_of(config, 2), prepare.sizes_of(config)
    shapes: TrainState = jax.eval_shape(lambda: init_state(config.seed, program, sizes))
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    ratio = seen[2] / state
    print(f"states held on a device after two steps: {ratio:.3f}")
    assert 1 <= ratio < 1.2

    if from_checkpoint:
        return
    # What the compiler says of the same step covers it, but for batches that wait.
    pod = Pod("v3:2x2", CHIPS["v3"]._replace(devices=1), jax.device_count())
    step = pretraining.step(config, pretraining.data_of(config))
    analysis = report.compile_step(step, pod, tuple(jax.devices()))
    waiting = report.waiting_bytes(step, pod)
    print(f"held {seen[2]} bytes, the compiler's analysis {analysis.memory:.0f} and {waiting}")
    assert seen[2] <= analysis.memory + waiting
