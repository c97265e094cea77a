"""The job `pretrain`: the training, and what `config.finish` makes of it at its end."""

import contextlib
import io
import logging
import pathlib
import shlex
from collections.abc import Callable
from typing import NamedTuple

import jax
import ml_collections

from byol_jax import train
from byol_jax.errors import Stopped
from byol_jax.evals import checkpoint
from byol_jax.runtime import processes

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

    def is_of(self, workdir: pathlib.Path, step: int) -> bool:
        """Whether it is there, and made after this step was saved."""
        last = workdir / self.path / self.last
        saved = workdir / "checkpoints" / str(step)
        return last.exists() and last.stat().st_mtime >= saved.stat().st_mtime


# Each module is imported when it is needed, since a training does without matplotlib and pyarrow.


def _report(workdir: pathlib.Path) -> None:
    from byol_jax.jobs import report

    report.write(str(workdir), workdir)


def _export(workdir: pathlib.Path) -> None:
    from byol_jax.jobs import export

    settings = {"checkpoint": str(workdir), "network": "online", "formats": "torch"}
    whole = {"job": "export", "licence": None, "overwrite": True}
    # How to load it is in its README.md, and the closing lines say where that is.
    with contextlib.redirect_stdout(io.StringIO()):
        export.run(ml_collections.ConfigDict(settings | whole), workdir / "encoder")


def _embed(workdir: pathlib.Path) -> None:
    from byol_jax.jobs import embed

    settings = {"checkpoint": str(workdir), "network": "online", "split": "train+valid+test"}
    own = dict.fromkeys(("dataset", "data_dir", "image_size", "eval_crop"))
    size = {"batch_size": 256, "images_per_part": 10_000, "format": "parquet", "job": "embed"}
    embed.run(ml_collections.ConfigDict(settings | own | size), workdir)


_PRODUCTS = {
    "report": _Product("report", "report.html", "", _report, "open it in a browser"),
    "export": _Product(
        *("encoder", "encoder", "model.safetensors", _export),
        "for PyTorch; its README.md says how",
    ),
    "embed": _Product(
        *("embeddings", "embeddings", "", _embed),
        "Parquet, a row per image (docs/outside.md)",
        resumes=True,
    ),
}


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains, and writes what `config.finish` names if the run has reached its end.

    Raises:
      UserError, Diverged, Stopped: see `train.pretrain`.
    """

    def then(ended: train.Ended) -> None:
        if ended.step == ended.total_steps and processes.is_first_process():
            finish(config, workdir, ended.step)

    train.pretrain(config, workdir, then)


def finish(config: ml_collections.ConfigDict, workdir: pathlib.Path, step: int) -> None:
    """Writes what `config.finish` names, says where it is, and what can be done next.

    The training has succeeded. What a product cannot be made of is said, and ends nothing; a
    product of this step stays as it is.

    Args:
      config: config of the run.
      workdir: its workdir.
      step: its last one.
    """
    failed = set()
    for name, product in _PRODUCTS.items():
        if not config.finish[name] or (product.is_of(workdir, step) and not product.resumes):
            continue
        try:
            if name == "embed" and jax.process_count() > 1:
                raise RuntimeError("the job embed is for one process")
            with checkpoint.own_run():
                product.make(workdir)
        except Stopped:
            raise
        except KeyboardInterrupt:
            _logger.warning("the training is saved; the same command makes what is missing")
            raise
        except Exception as error:  # of a picture, a disk, a library: the training has its end
            failed.add(name)
            reason = " ".join(str(error).split()) or type(error).__name__
            _logger.warning("config.finish.%s: not written: %s", name, reason)
    lines = [("weights", str(workdir / "checkpoints"), f'byol_jax.load_encoder("{workdir}")')]
    lines += [
        (product.name, str(workdir / product.path), product.words)
        for name, product in _PRODUCTS.items()
        if name not in failed and (product.resumes or product.is_of(workdir, step))
        if (workdir / product.path).exists()
    ]
    widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
    print("\nThe run is finished:", flush=True)
    for name, place, words in lines:
        print(f"  {name:{widths[0]}}  {place:{widths[1]}}  {words}", flush=True)
    print(f"Next: {_next(workdir, {line[0] for line in lines} | failed)}", flush=True)


def _next(workdir: pathlib.Path, done: set[str]) -> str:
    """The command that most users want now, but for what is there or has just failed."""
    options = f"--config.checkpoint={shlex.quote(str(workdir))}"
    if not done & {"report"}:
        return f"{_COMMAND}/report.py {options}"
    if not done & {"encoder", "export"}:
        target = shlex.quote(str(workdir / "encoder"))
        return f"{_COMMAND}/export.py {options} --workdir={target}"
    if not done & {"embeddings", "embed"}:
        return f"{_COMMAND}/embed.py {options} --workdir={shlex.quote(str(workdir))}"
    return f"{_COMMAND}/evaluate.py {options} --config.dataset=folder:LABELLED --workdir=DIR"
