"""The jobs by name, and those around training and evaluation: tables, pictures, an export, ..."""

import importlib
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import ml_collections

from byol_jax.errors import require
from byol_jax.runtime import checkpoints

Job = Callable[[ml_collections.ConfigDict, pathlib.Path], None]


class Entry(NamedTuple):
    """A job that is not imported yet.

    Attributes:
      function: where it is, `module:function`.
      summary: what it does, in the words of `--help`.
    """

    function: str
    summary: str


# The job of each `config.job`. It is imported when the job runs, so that `--help` and mistakes in
# flags wait for no other job, and not for TensorFlow.
JOBS: Mapping[str, Entry] = {
    "pretrain": Entry(
        "byol_jax.jobs.pretrain:run",
        "trains an encoder, from the newest checkpoint of the workdir on",
    ),
    "evaluate": Entry(
        "byol_jax.evals.evaluate:run", "accuracies of frozen features: kNN, linear, few labels"
    ),
    "linear": Entry("byol_jax.evals.linear:run", "a linear classifier on a frozen encoder, by SGD"),
    "finetune": Entry("byol_jax.evals.finetune:run", "trains whole networks on labels"),
    "transfer": Entry(
        "byol_jax.evals.transfer:run", "a linear classifier for another data set, by regression"
    ),
    "transformations": Entry(
        "byol_jax.evals.transformations:run", "predicts the transformation of a view from features"
    ),
    "segmentation": Entry(
        "byol_jax.evals.segmentation:run", "trains a network for segmentation: mIoU"
    ),
    "depth": Entry("byol_jax.evals.depth:run", "trains a network for depth from one image"),
    "views": Entry("byol_jax.jobs.pictures:run", "a picture of images beside T and T' of them"),
    "operations": Entry(
        "byol_jax.jobs.pictures:run_operations", "a picture of one image after each augmentation"
    ),
    "ablate": Entry(
        "byol_jax.jobs.ablate:run", "trains rows of an ablation table, beside the paper's numbers"
    ),
    "paper": Entry(
        "byol_jax.jobs.paper:run", "a paper's table beside the same numbers of a checkpoint"
    ),
    "compare": Entry("byol_jax.jobs.compare:run", "whether two results differ by more than chance"),
    "embed": Entry("byol_jax.jobs.embed:run", "the embeddings of a data set, as files"),
    "predict": Entry(
        "byol_jax.jobs.predict:run", "masks or depths of a folder of images, as files"
    ),
    "report": Entry("byol_jax.jobs.report:run", "a page of HTML that shows a run"),
    "export": Entry("byol_jax.jobs.export:run", "an encoder as a folder for other programs"),
}

# Those that add records to the `results.json` of their workdir.
WITH_RESULTS = frozenset(
    (
        *("pretrain", "evaluate", "linear", "finetune", "transfer", "transformations"),
        *("segmentation", "depth", "ablate", "paper", "compare"),
    )
)


def job_of(name: str) -> Job:
    """The function of a job, `function(config, workdir)`."""
    module, function = JOBS[name].function.split(":")
    job: Job = getattr(importlib.import_module(module), function)
    return job


def fill(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Names the data set, and chooses the open keys of a page that asks for it; see `recipe.fill`.

    Raises:
      UserError: see there; or the user wants no choice, and the page has open keys.
    """
    if "data" in config and config.data.get("labels"):
        from byol_jax import method

        method.name_labels(config)
    if config.get("choose"):
        from byol_jax.jobs import recipe

        recipe.fill(config, workdir)
    require(
        "choose" not in config or config.batch_size is not None,
        "config.choose=False leaves config.batch_size and others open: start from another page, "
        "such as experiments/imagenette.py",
    )


def workdir_of(config: ml_collections.ConfigDict) -> str:
    """Where a job writes without a workdir of its own: a report, to the run that it shows."""
    if config.get("job") != "report" or not config.checkpoint:
        return ""
    return str(checkpoints.workdir_of(config.checkpoint))
