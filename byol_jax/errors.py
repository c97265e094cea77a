"""The ways a job ends early on purpose; `main` turns them into exit codes."""

import contextlib
from collections.abc import Iterator

USER_ERROR, GUARD = 2, 3


class UserError(Exception):
    """A user's mistake, found before anything was computed or overwritten.

    The message is one line that says what is wrong and what to do about it.
    `main` prints it without a traceback and exits with code 2.
    """


class GuardError(Exception):
    """A guard stopped the job: non-finite numbers, a full disk, a lost peer.

    The message is one line that says what happened and where the last good state is. `main` prints
    it without a traceback and exits with code 3.
    """


class Diverged(GuardError):
    """A run produced numbers that are not finite. A grid of runs continues without it."""


class Collapsed(GuardError):
    """A run has collapsed, and was to stop then (`config.stop_on_collapse`)."""


@contextlib.contextmanager
def finished(saved: str) -> Iterator[None]:
    """Says of what fails here that the training before it is finished and saved.

    Args:
      saved: what is saved, and where.

    Raises:
      GuardError: in place of `UserError`, `OSError` and another `GuardError`.
    """
    try:
        yield
    except (UserError, GuardError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise GuardError(
            f"the training is finished and saved, {saved}; it is not evaluated: {reason}; once "
            "that is mended, the same command evaluates it"
        ) from error


@contextlib.contextmanager
def titled(title: str) -> Iterator[None]:
    """Puts a title before what is wrong, as in `config.dataset=digits: ...`.

    Args:
      title: the key and the value, or the name, of what a user has to change.

    Raises:
      UserError: in place of another one.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{title}: {error}") from error


def require(condition: object, message: str) -> None:
    """Raises `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


class Stopped(Exception):
    """A signal ended the job after its state was saved; `main` exits with 128 + `number`."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.number = number
