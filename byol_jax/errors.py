"""The ways a job ends early on purpose; `main` turns them into exit codes."""

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


def require(condition: object, message: str) -> None:
    """Raises `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


class Stopped(Exception):
    """A signal ended the job after its state was saved; `main` exits with 128 + `number`."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.number = number
