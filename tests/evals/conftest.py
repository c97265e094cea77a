"""What the jobs that learn from labels are tested on."""

import signal

import pytest

import tiny_checkpoints
from byol_jax.data import pipeline
from byol_jax.runtime import metrics


@pytest.fixture(scope="package")
def dataset(tmp_path_factory):
    """Three classes: 45 images to train on, 36 of them without the validation cut, and 12 tests."""
    return tiny_checkpoints.write_easy_npz(tmp_path_factory.mktemp("data") / "images.npz")


@pytest.fixture(scope="package")
def checkpoint(dataset, tmp_path_factory):
    """A workdir with the checkpoint of step 6 of an untrained network."""
    return str(tiny_checkpoints.save(tmp_path_factory.mktemp("run"), dataset))


@pytest.fixture
def stop_after(monkeypatch):
    """Sends SIGTERM after a line of metrics.jsonl; lines are counted from one."""

    def stop_after(number):
        write, count = metrics.Writer.write, 0

        def write_and_signal(self, step, split, values):
            nonlocal count
            write(self, step, split, values)
            count += 1
            if count == number:
                signal.raise_signal(signal.SIGTERM)

        monkeypatch.setattr(metrics.Writer, "write", write_and_signal)

    return stop_after


@pytest.fixture
def no_training(monkeypatch):
    """Every training from now on fails."""

    def train_batches(*arguments, **settings):
        raise AssertionError("trained again")

    monkeypatch.setattr(pipeline, "train_batches", train_batches)
