"""One run of a table may fail without ending the table: its reason is kept, and told at the end."""

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from byol_jax.errors import GuardError, Stopped, UserError
from byol_jax.runtime import processes

_logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")


class Failure(NamedTuple):
    """Why a run failed.

    Attributes:
      reason: one line.
      is_the_users: whether its config was refused.
    """

    reason: str
    is_the_users: bool


def attempt(name: str, run: Callable[[], _Result]) -> tuple[_Result | None, Failure | None]:
    """Calls `run`; an error is logged and returned in place of the result.

    Signals end the table all the same. So do, in several processes, errors that the jobs do not
    raise on purpose: another process may be waiting for this one.

    Args:
      name: name of the run, for the log.
      run: the run.

    Raises:
      Stopped: after a signal.
      Exception: in several processes, what is neither a `UserError` nor a `GuardError`.
    """
    try:
        return run(), None
    except Stopped:
        raise
    except (UserError, GuardError) as error:
        _logger.warning("%s: %s", name, error)
        return None, Failure(_line(str(error)), isinstance(error, UserError))
    except Exception as error:  # such as a device that is out of memory
        if processes.is_joined():
            raise
        _logger.warning("%s failed", name, exc_info=error)
        first = str(error).strip().partition("\n")[0] or "no message"
        return None, Failure(_line(f"{type(error).__name__}: {first}"), False)


def _line(text: str) -> str:
    return " ".join(text.split())


def raise_any(failures: Mapping[str, Failure], what: str, total: int) -> None:
    """Ends a table whose runs failed.

    Args:
      failures: by name of the run.
      what: what the runs are, as in `cells of table=3`.
      total: number of runs.

    Raises:
      GuardError: a run failed for another reason than its config.
      UserError: the configs of runs were refused.
    """
    if not failures:
        return
    names: dict[str, list[str]] = {}
    for name, failure in failures.items():
        names.setdefault(failure.reason, []).append(name)
    reasons = "; ".join(f"{', '.join(same)}: {reason}" for reason, same in names.items())
    message = f"{len(failures)} of {total} {what} failed: {reasons}"
    if all(failure.is_the_users for failure in failures.values()):
        raise UserError(message)
    raise GuardError(message)
