"""The jobs by name, and those around training and evaluation: tables, pictures, an export, ..."""

import importlib
import pathlib
from collections.abc import Callable, Mapping

import ml_collections

Job = Callable[[ml_collections.ConfigDict, pathlib.Path], None]

# The function of each `config.job`. It is imported when the job runs, so that `--help` and mistakes
# in flags need neither JAX nor TensorFlow.
JOBS: Mapping[str, str] = {
    "pretrain": "byol_jax.jobs.pretrain:run",
    "evaluate": "byol_jax.evals.evaluate:run",
    "linear": "byol_jax.evals.linear:run",
    "finetune": "byol_jax.evals.finetune:run",
    "transfer": "byol_jax.evals.transfer:run",
    "transformations": "byol_jax.evals.transformations:run",
    "views": "byol_jax.jobs.pictures:run",
    "operations": "byol_jax.jobs.pictures:run_operations",
    "ablate": "byol_jax.jobs.ablate:run",
    "paper": "byol_jax.jobs.paper:run",
    "compare": "byol_jax.jobs.compare:run",
    "embed": "byol_jax.jobs.embed:run",
    "report": "byol_jax.jobs.report:run",
    "export": "byol_jax.jobs.export:run",
}


def job_of(name: str) -> Job:
    """The function of a job, `function(config, workdir)`."""
    module, function = JOBS[name].split(":")
    job: Job = getattr(importlib.import_module(module), function)
    return job


def fill(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Chooses the open keys of a page that asks for it; see `recipe.fill`."""
    if config.get("choose"):
        from byol_jax.jobs import recipe

        recipe.fill(config, workdir)


def workdir_of(config: ml_collections.ConfigDict) -> str:
    """Where a job writes without a workdir of its own: a report, to the run that it shows."""
    if config.get("job") != "report" or not config.checkpoint:
        return ""
    from byol_jax.jobs import report

    return str(report.workdir_of(config.checkpoint))
