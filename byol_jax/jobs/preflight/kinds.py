"""Which jobs train, and where their steps are made."""

import importlib
from collections.abc import Mapping

from byol_jax.errors import require
from byol_jax.jobs.preflight.steps import Kind

# The module with the `KIND` of each job; it is imported when one of its jobs is compiled.
_MODULES: Mapping[str, str] = {
    "pretrain": "pretraining",
    "linear": "classifiers",
    "finetune": "classifiers",
    "segmentation": "dense",
    "depth": "dense",
}


def kind_of(job: str) -> Kind:
    """How the step of a job is made.

    Raises:
      UserError: the job has no step.
    """
    require(
        job in _MODULES,
        f"config.job={job} has no pre-flight: --preflight is for {', '.join(_MODULES)}",
    )
    kind: Kind = importlib.import_module(f"byol_jax.jobs.preflight.{_MODULES[job]}").KIND
    return kind
