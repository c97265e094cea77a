"""The job `export`: a trained encoder as one folder that other programs read (docs/export.md)."""

import contextlib
import importlib.resources
import importlib.util
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence

import jax
import ml_collections
import numpy as np

from byol_jax import checks, encoder
from byol_jax.errors import require
from byol_jax.evals import checkpoint
from byol_jax.jobs import card
from byol_jax.results.records import Record, read_results
from byol_jax.runtime import checkpoints, disk, metrics, processes
from byol_jax.weights import exported, hub, onnx, saved_model, stablehlo
from byol_jax.weights.trained import Trained

# What each format adds to the folder. `timm` adds nothing: its keys are in config.json wherever
# timm can hold the network, and naming it makes that a condition.
FILES = {
    "torch": (exported.FILE, "byol_resnet.py", "hubconf.py", "config.json", "README.md"),
    "timm": (),
    "onnx": ("encoder.onnx",),
    "saved_model": ("saved_model",),
    "stablehlo": ("encoder.stablehlo",),
}
# The package that a format needs to be written, and how it is installed.
_PACKAGES = {
    "onnx": ("onnx", "pip install 'byol_jax[onnx]'"),
    "saved_model": ("tensorflow", "pip install tensorflow"),
}
_LARGEST = {"onnx": onnx.LARGEST, "stablehlo": stablehlo.LARGEST}
# Everything is written here first, inside the target.
PARTIAL = ".export.partial"
# What tells the workdir of a run from the folder of an export.
_OF_RUNS = ("checkpoints", "metrics.jsonl", "results.json")

_HUBCONF = '''"""For `torch.hub.load(FOLDER, "encoder", source="local")`."""

import pathlib

import byol_resnet

dependencies = ["torch", "safetensors"]


def encoder():
    """The encoder of this folder, in evaluation mode."""
    return byol_resnet.load(pathlib.Path(__file__).parent)
'''


def formats_of(names: str) -> list[str]:
    """The formats of `config.formats`, which always include `torch`.

    Raises:
      UserError: there is no such format, or a package that it needs is missing.
    """
    formats = list(dict.fromkeys(["torch", *filter(None, names.split("+"))]))
    for name in formats:
        require(
            name in FILES,
            f"config.formats={names}: {name!r} must be one of: {', '.join(FILES)}"
            f"{checks.nearest(name, FILES)}; several are joined by +",
        )
        if name in _PACKAGES:
            package, command = _PACKAGES[name]
            require(
                importlib.util.find_spec(package),
                f"config.formats={names}: {name} needs the package {package}: {command}",
            )
    return formats


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes the encoder of `config.checkpoint` into `workdir`.

    Raises:
      UserError: the checkpoint or a format cannot be used, or files would be overwritten.
      GuardError: the disk is full.
    """
    name = config.network
    checks.check_keys(config, {"network": checks.one_of(encoder.NETWORKS)})
    formats = formats_of(config.formats)
    _check_target(workdir, config.overwrite)
    trained = checkpoint.load_weights(config)
    checkpoint.check_networks(trained, [name])
    _check_formats(trained, name, formats)
    licence = card.licence_of(trained, config.licence)
    records = _records(config.checkpoint, name, trained.step)
    if not processes.is_first_process():
        return
    with _written_whole(workdir) as folder:
        write_torch(folder, trained, name, licence)
        write_programs(folder, trained, name, licence, formats)
        content = card.text(trained, name, licence, records, formats)
        (folder / "README.md").write_text(content, encoding="utf-8")
    print("\n".join(_closing(workdir, trained, formats)), flush=True)


def _check_target(workdir: pathlib.Path, overwrite: bool) -> None:
    """Refuses a folder that holds a run, or files of any format of an export."""
    require(
        workdir.is_dir() or not workdir.exists(),
        f"--workdir={workdir} is a file: name a folder for the export",
    )
    for name in _OF_RUNS:
        require(
            not (workdir / name).exists(),
            f"--workdir={workdir} holds {name} of a run: name another folder for the export",
        )
    # A file of another export must not stay beside new weights.
    for name in (name for names in FILES.values() for name in names):
        require(
            overwrite or not (workdir / name).exists(),
            f"--workdir={workdir} already holds {name}: name another folder, or replace the whole "
            "export with --config.overwrite=True",
        )


def _check_formats(trained: Trained, name: str, formats: Sequence[str]) -> None:
    """Refuses networks that a format cannot hold."""
    spec = trained.network
    require(
        spec.dilation == 1,
        f"network.dilation={spec.dilation} of the checkpoint cannot be exported: the files say "
        "nothing of dilation; use byol_jax.load_encoder",
    )
    reason = hub.why_not_timm(spec)
    require(
        "timm" not in formats or not reason,
        f"config.formats={'+'.join(formats)}: {reason}; leave timm out and use byol_resnet.py, "
        "which every export has",
    )
    size = sum(
        np.asarray(leaf).nbytes for leaf in jax.tree.leaves(exported.encoder_of(trained, name))
    )
    for format_name, largest in _LARGEST.items():
        require(
            format_name not in formats or size <= largest,
            f"config.formats: {format_name} ends at 2 GiB in one file, and the weights have "
            f"{size / 2**30:.1f} GiB; use torch or saved_model",
        )


def _records(path: str, name: str, step: int) -> list[Record]:
    """The evaluations of a network at a step, in the workdir of its checkpoint."""
    file = checkpoints.workdir_of(path) / "results.json"
    records = read_results(file) if file.is_file() else []
    return [r for r in records if r.network == name and r.checkpoint_step == step]


@contextlib.contextmanager
def _written_whole(workdir: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to write into, whose files get their final places once all of them are complete.

    Raises:
      GuardError, UserError: the disk cannot be written.
    """
    partial = workdir / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)  # of an export that was killed
    try:
        with disk.writing(workdir, "the files in it are as they were before"):
            partial.mkdir(parents=True)
            yield partial
            _publish(partial, workdir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _publish(partial: pathlib.Path, workdir: pathlib.Path) -> None:
    """Moves complete files to their places; those of an earlier export go, all of them."""
    old = partial / "old"
    old.mkdir()
    for name in (name for names in FILES.values() for name in names):
        if (workdir / name).exists():
            os.replace(workdir / name, old / name)
    # The weights come last: where they are, everything is.
    names = sorted(path.name for path in partial.iterdir() if path != old)
    for name in sorted(names, key=lambda name: name == exported.FILE):
        os.replace(partial / name, workdir / name)


def write_torch(folder: pathlib.Path, trained: Trained, name: str, licence: card.Licence) -> None:
    """The weights, and what PyTorch and timm need to load them."""
    exported.write(folder / exported.FILE, trained, name)
    metrics.write_json(folder / "config.json", hub.describe(trained, name, licence.identifier))
    (folder / "hubconf.py").write_text(_HUBCONF, encoding="utf-8")
    source = importlib.resources.files("byol_jax.weights") / "byol_resnet.py"
    (folder / "byol_resnet.py").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")


def write_programs(
    folder: pathlib.Path,
    trained: Trained,
    name: str,
    licence: card.Licence,
    formats: Sequence[str],
) -> None:
    """The network as a program, in each format that is asked for."""
    spec = trained.network
    arrays = exported.arrays_of(trained, name)
    if "onnx" in formats:
        dim = hub.dim_of(spec)
        about = hub.describe(trained, name, licence.identifier)[exported.KEY]
        onnx.write(folder / "encoder.onnx", arrays, spec, dim, about)
    if "stablehlo" in formats:
        trees = exported.encoder_of(trained, name)
        stablehlo.write(folder / "encoder.stablehlo", *trees, spec, trained.image_size)
    if "saved_model" in formats:
        saved_model.write(folder / "saved_model", arrays, spec)


def _closing(workdir: pathlib.Path, trained: Trained, formats: Sequence[str]) -> list[str]:
    """The files with their sizes, and the lines that load them."""
    lines = []
    for name in (name for key in formats for name in FILES[key]):
        path = workdir / name
        parts = [part for part in path.rglob("*") if part.is_file()] if path.is_dir() else [path]
        size = sum(part.stat().st_size for part in parts)
        lines.append(f"written: {path} ({size / 1e6:.2f} MB)")
    for title, code in card.snippets(trained, formats, str(workdir)).items():
        lines += ["", f"{title}:", *(f"    {line}" for line in code)]
    return lines
