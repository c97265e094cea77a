"""Small runs for the tests: a config that trains in seconds, and images to train on."""

import json
import multiprocessing
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from PIL import Image

from byol_jax.data.images import ImageSet
from experiments import base

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Of the program: TinyResNet on the digits, without an evaluation or a report.
TINY_FLAGS = (
    "--config.network.depth=tiny",
    "--config.network.width=0.5",
    "--config.network.projector.hidden_size=16",
    "--config.network.predictor.hidden_size=16",
    "--config.image_size=8",
    "--config.batch_size=8",
    "--config.accumulate=1",
    "--config.evaluation.at_end=False",
    "--config.finish.report=False",
)


def command(*arguments: object) -> list[str]:
    """The program with these arguments, to be run in `ROOT`."""
    return [sys.executable, "-m", "byol_jax.main", *map(str, arguments)]


def program(*arguments: object, cwd: pathlib.Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The program, run to its end."""
    # The checkout itself, installed or not, before whatever the caller has.
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


# Children of one process that has imported the program and its jobs.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["byol_jax.main", "byol_jax.train", "byol_jax.jobs.preflight.report", "byol_jax.evals.finetune"]
)


def _run_forked(arguments: Sequence[str], streams: pathlib.Path) -> None:
    from byol_jax import main

    os.chdir(ROOT)
    for number, name in enumerate(("stdout", "stderr"), start=1):
        os.dup2(os.open(streams / name, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["byol_jax.main", *arguments]
    main.run()


def start(streams: pathlib.Path, *arguments: object) -> multiprocessing.Process:
    """The program, running, without the seconds that Python takes to import it.

    Args:
      streams: a folder; the program writes its `stdout` and `stderr` there.
      *arguments: of the program.
    """
    process = _FORKS.Process(target=_run_forked, args=([*map(str, arguments)], streams))
    process.start()
    return process


def refusal(*arguments: object) -> str:
    """What the program says of a mistake, in one line: all that it prints before it exits with 2.

    As `program`, but without the seconds that Python takes to import it.
    """
    with tempfile.TemporaryDirectory() as folder:
        streams = pathlib.Path(folder)
        process = start(streams, *arguments)
        process.join(300)
        stdout, stderr = ((streams / name).read_text() for name in ("stdout", "stderr"))
    assert process.exitcode == 2, stderr
    assert not stdout
    (line,) = stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line


def images(count: int, size: int = 8, seed: int = 0) -> np.ndarray:
    """uint8 images `[count, size, size, 3]`."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def labelled_set(counts: Sequence[int], unlabelled: int = 0) -> ImageSet:
    """Shuffled labels, so many of each class and without any, of black images of one pixel."""
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = np.concatenate([labels, np.full(unlabelled, -1)]).astype(np.int32)
    labels = np.random.default_rng(2).permutation(labels)
    pixels = np.zeros((len(labels), 1, 1, 3), np.uint8)
    return ImageSet("set", pixels, labels, len(counts))


def write_npz(path: pathlib.Path, train: int = 24, test: int = 12, classes: int = 2) -> str:
    """A small labelled data set; returns its name for `config.dataset`."""
    np.savez(
        path,
        train_images=images(train),
        train_labels=np.arange(train) % classes,
        test_images=images(test, seed=1),
        test_labels=np.arange(test) % classes,
    )
    return f"npz:{path}"


def write_folder(root: pathlib.Path, train: int = 24, test: int = 12, classes: int = 2) -> str:
    """The same as JPEG and PNG files of several sizes; returns its name for `config.dataset`."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for i in range(count):
            height, width = rng.integers(8, 24, 2)
            pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
            file = root / split / f"class{i % classes}" / f"{i}.{('jpg', 'png')[i % 3 == 0]}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    return f"folder:{root}"


def write_tfds(root: pathlib.Path, count: int = 24, file_format: str = "tfrecord") -> str:
    """A labelled TFDS set `tiny`, three shards of PNG records; `config.data_dir` is `root`."""
    import tensorflow_datasets as tfds

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
            label = tfds.features.ClassLabel(num_classes=2)
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(
                builder=self, features=features, supervised_keys=("image", "label")
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0), "test": self._generate_examples(1)}

        def _generate_examples(self, seed):
            for i, image in enumerate(images(count, 12, seed)):
                yield i, {"image": image[: 8 + i % 5], "label": i % 2}

    builder = Tiny(data_dir=str(root), file_format=file_format)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=3))
    return "tfds:tiny"


def tiny_config(dataset: str, **changes: Any) -> ml_collections.ConfigDict:
    """TinyResNet on 8x8 images, 6 steps of 8; `changes` are dotted keys with `__` for dots."""
    config = base.get_config()
    config.update(
        {
            "dataset": dataset,
            "image_size": 8,
            "batch_size": 8,
            "num_steps": 6,
            "log_every": 1,
            "checkpoint_every": 3,
            "network": {
                "depth": "tiny",
                "width": 0.5,
                "stem": "small",
                "projector": {"hidden_size": 16, "output_size": 8},
                "predictor": {"hidden_size": 16},
            },
            "optimizer": {"base_learning_rate": 4.0, "warmup_epochs": 0.5},
            "data": {"eval_crop": "full"},
            "evaluation": {"at_end": False},
        }
    )
    with config.unlocked():
        config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def types_of(config: ml_collections.ConfigDict, prefix: str = "") -> dict[str, type]:
    """Dotted keys of a config and their types, which placeholders have too."""
    types: dict[str, type] = {}
    for name in config:
        kind = config.get_type(name)
        if issubclass(kind, ml_collections.ConfigDict):
            types |= types_of(config[name], f"{prefix}{name}.")
        else:
            types[prefix + name] = kind
    return types


def metrics(workdir: pathlib.Path) -> list[Mapping[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
