"""The job `pretrain`: the training, and what `config.finish` makes of it at its end."""

import logging
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import ml_collections

from byol_jax import train
from byol_jax.errors import UserError
from byol_jax.jobs import embed, export, report
from byol_jax.runtime import processes
from byol_jax.weights import exported

_logger = logging.getLogger(__name__)

_COMMAND = "python -m byol_jax.main --config=experiments"


class _Product(NamedTuple):
    """Something that a finished run leaves in its workdir.

    Attributes:
      name: what the closing lines call it.
      path: the file or folder in the workdir.
      last: what is written last, below `path`; where it is, the whole is.
      make: writes it, from the workdir.
      words: what to do with it.
      resumes: whether `make` goes on where it was stopped, and does nothing if all is there.
    """

    name: str
    path: str
    last: str
    make: Callable[[pathlib.Path], object]
    words: str
    resumes: bool = False


def _export(workdir: pathlib.Path) -> None:
    settings = {"checkpoint": str(workdir), "network": "online", "formats": "torch"}
    whole = {"job": "export", "licence": None, "overwrite": True}
    export.run(ml_collections.ConfigDict(settings | whole), workdir / "encoder")


def _embed(workdir: pathlib.Path) -> None:
    settings = {"checkpoint": str(workdir), "network": "online", "split": "train+valid+test"}
    own = dict.fromkeys(("dataset", "data_dir", "image_size", "eval_crop"))
    size = {"batch_size": 256, "images_per_part": 10_000, "format": "parquet", "job": "embed"}
    embed.run(ml_collections.ConfigDict(settings | own | size), workdir)


_PRODUCTS = {
    "report": _Product(
        "report",
        report.FILE,
        "",
        lambda workdir: report.write(str(workdir), workdir),
        "open it in a browser",
    ),
    "export": _Product(
        "encoder", "encoder", exported.FILE, _export, "for PyTorch; its README.md says how"
    ),
    "embed": _Product(
        "embeddings",
        "embeddings",
        "",
        _embed,
        "Parquet, a row per image (docs/outside.md)",
        resumes=True,
    ),
}


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains, and writes what `config.finish` names if the run has reached its end.

    Raises:
      UserError, Diverged, Stopped: see `train.pretrain`.
    """
    ended = train.pretrain(config, workdir)
    if ended.step == ended.total_steps and processes.is_first_process():
        finish(config, workdir, was_trained=ended.start < ended.step)


def finish(config: ml_collections.ConfigDict, workdir: pathlib.Path, was_trained: bool) -> None:
    """Writes what `config.finish` names, says where it is, and what can be done next.

    A training that is done has succeeded. What a product cannot be made of is said, and ends
    nothing.

    Args:
      config: of the run.
      workdir: its workdir.
      was_trained: whether steps were done just now; otherwise products that are there stay.
    """
    failed = {}
    for name, product in _PRODUCTS.items():
        is_there = (workdir / product.path / product.last).exists()
        is_new = was_trained or product.resumes or not is_there
        if not (config.finish[name] and is_new):
            continue
        if name == "embed" and jax.process_count() > 1:
            failed[name] = "the job embed is for one process"
            continue
        try:
            product.make(workdir)
        except UserError as error:
            failed[name] = str(error)
    for name, reason in failed.items():
        _logger.warning("config.finish.%s: not written: %s", name, reason)
    lines = [("weights", str(workdir / "checkpoints"), f'byol_jax.load_encoder("{workdir}")')]
    lines += [
        (product.name, str(workdir / product.path), product.words)
        for name, product in _PRODUCTS.items()
        if name not in failed and (workdir / product.path / product.last).exists()
    ]
    widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
    print("\nThe run is finished:", flush=True)
    for name, place, words in lines:
        print(f"  {name:{widths[0]}}  {place:{widths[1]}}  {words}", flush=True)
    print(f"Next: {_next(config, workdir)}", flush=True)


def _next(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> str:
    """The command that most users want now."""
    options = f"--config.checkpoint={workdir}"
    if not (workdir / report.FILE).exists():
        return f"{_COMMAND}/report.py {options}"
    if not (workdir / "encoder").exists():
        return f"{_COMMAND}/export.py {options} --workdir={workdir / 'encoder'}"
    if not (workdir / "embeddings").exists():
        return f"{_COMMAND}/embed.py {options} --workdir={workdir}"
    return f"{_COMMAND}/evaluate.py {options} --config.dataset=LABELLED --workdir=DIR"
