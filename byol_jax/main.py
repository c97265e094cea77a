"""Runs every job: `byol --config=PAGE --workdir=DIR`, or `python -m byol_jax.main`."""

import contextlib
import io
import pathlib
import re
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence

from absl import app, flags, logging
from ml_collections import config_dict, config_flags

from byol_jax import checks, jobs, pages
from byol_jax.errors import GUARD, USER_ERROR, GuardError, Stopped, UserError, require
from byol_jax.results import records
from byol_jax.runtime import (
    cache,
    disk,
    interrupts,
    metrics,
    paths,
    platforms,
    processes,
    streams,
)

# The arguments with those of flag files: `parse` puts them here. By itself the flag of the config
# would read such files, and fail, where it is defined.
_ARGV: list[str] = []
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The page: NAME of a shipped one, or a path.", sys_argv=_ARGV
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run's outputs.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, when several processes train together."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many processes there are; 1 alone: look for no others."
)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Index of this process.")
_JOIN_TIMEOUT = flags.DEFINE_integer(
    "join_timeout",
    processes.Hosts().join_timeout,
    "Seconds to wait at start until all processes are there.",
)
_PEER_TIMEOUT = flags.DEFINE_integer(
    "peer_timeout",
    processes.Hosts().peer_timeout,
    "Seconds without a sign of life after which another process counts as lost.",
)
_PREFLIGHT = flags.DEFINE_string(
    "preflight", None, "A pod, as v3:16x16: compile the training's step for it, and stop."
)
_LARGEST_BATCH = flags.DEFINE_bool(
    "largest_batch", False, "With --preflight: predict it from a second compilation."
)

_HELP = frozenset(("-h", "-help", "--help", "-helpshort", "--helpshort", "-?", "--?"))


def _usage() -> str:
    """What `--help` prints: the jobs, the shipped pages, and the flags of this module."""
    called = pathlib.Path(sys.argv[0]).stem
    program = "byol" if called == "byol" else "python -m byol_jax.main"
    defined = flags.FLAGS.get_key_flags_for_module(flags.FLAGS.find_module_defining_flag("workdir"))
    described = {
        f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}=": flag.help
        + (f" (default: {flag.value})" if flag.value else "")
        for flag in defined
    }
    described["--helpfull"] = "All flags, those of libraries too."

    def table(rows: Mapping[str, str]) -> list[str]:
        return [f"  {name:20} {words}" for name, words in rows.items()]

    lines = [
        f"usage: {program} --config=PAGE[:OPTION=VALUE,...] --workdir=DIR [--config.KEY=VALUE ...]",
        "",
        "PAGE is the name of a shipped page or the path of a page, whose keys are flags.",
        "",
        "Jobs, by config.job, which the page sets:",
        *table({name: job.summary for name, job in jobs.JOBS.items()}),
        "",
        f"Shipped pages, in {pages.folder()}:",
        *table(pages.summaries()),
        "",
        "Flags:",
        *table(described),
    ]
    return "\n".join(lines)


def _explain(error: Exception) -> str:
    """One line for what absl or ml_collections found wrong with the flags."""
    text = str(error)
    suggestion = re.search(r'Did you mean "(.+)" instead of "(.+)"', text)
    if suggestion:
        right, wrong = suggestion.groups()
        return f"the config has no key {wrong!r}: did you mean {right!r}?"
    inside_a_value = re.search(r"Attempting to lookup: ([\w.]+)", text)
    if inside_a_value:
        return f"the config has no key {inside_a_value[1]!r}: its page lists the keys"
    if isinstance(error, AttributeError | KeyError):
        return f"the config has no key {text.strip(chr(34))}: its page lists the keys"
    if "get_config() takes 0 positional arguments" in text:
        return "the page of --config takes no options: leave out what follows its colon"
    for python, plain in (
        ("invalid literal for int", "a whole number is needed"),
        ("could not convert string to float", "a number is needed"),
    ):
        if python in text:
            return f"{text.partition(': ')[0]}: {plain}"
    # A page that refuses its options has its own words, after the traceback.
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[0] if len(lines) == 1 else lines[-1].partition("Error: ")[2] or lines[-1]


# A key that is left open again. Its own parser would want a number, or take the word for a name.
_KEY = r"--?config\.([\w.]+)"


def _take_unset(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits `--config.KEY=None`, also written as two words, from the other arguments.

    Returns:
      The other arguments, and the keys for which None is the last value given.
    """
    words: list[str] = []
    for word in argv:
        if word == "None" and words and re.fullmatch(_KEY, words[-1]):
            words[-1] += "=None"
        else:
            words.append(word)
    unset = {}
    for word in words:
        if match := re.match(_KEY, word):
            unset[match[1]] = word[match.end() :] == "=None"
    others = [word for word in words if not re.fullmatch(f"{_KEY}=None", word)]
    return others, [key for key, is_last in unset.items() if is_last]


def _unset(key: str) -> None:
    """Sets a key of the config to None.

    Raises:
      UserError: it is not a key that pages may leave open.
    """
    given = f"config.{key}=None"
    value = section = _CONFIG.value
    for name in key.split("."):
        section, value = value, value[name]
    require(not isinstance(value, config_dict.ConfigDict), f"{given}: this is a section, not a key")
    field = section.to_dict(preserve_field_references=True)[name]
    require(
        isinstance(field, config_dict.FieldReference),
        f"{given}: this key needs a value, and is {value!r} if it is left out",
    )
    section[name] = None


def _given() -> list[str]:
    """The keys of the config that the command line sets to a value."""
    values = checks.flatten(_CONFIG.value.to_dict())
    given = config_flags.get_override_values(flags.FLAGS["config"])
    return [key for key in given if values.get(key, key) is not None]


def _take_page(argv: Sequence[str]) -> tuple[list[str], str]:
    """Puts the file of the page into `--config=PAGE`, and makes pages importable.

    Returns:
      The arguments, and the page as it was given, with its options.

    Raises:
      UserError: there is no such page.
    """
    words: list[str] = []
    given = ""
    for word in argv:
        if words and words[-1] in ("--config", "-config"):
            words[-1] += f"={word}"
        else:
            words.append(word)
    for index, word in enumerate(words):
        flag, separator, value = word.partition("=")
        if flag in ("--config", "-config") and separator:
            given = value
            name, colon, options = value.partition(":")
            page = pages.find(str(paths.outside(name, "--config")) if name[:1] == "~" else name)
            pages.make_importable(page)
            words[index] = f"--config={page}{colon}{options}"
    return words, given


def _with_flag_files(words: Sequence[str]) -> list[str]:
    """The arguments with those that stand in files in place of `--flagfile=FILE`.

    Raises:
      UserError: a file cannot be read, or names itself.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found: list[str] = flags.FLAGS.read_flags_from_files(words, force_gnu=False)
    except (flags.Error, UnicodeDecodeError) as error:
        cause = error.__context__
        if isinstance(cause, OSError):
            raise UserError(
                f"--flagfile={cause.filename} cannot be read ({cause.strerror}): give a file with "
                "a flag in each line"
            ) from error
        raise UserError(
            f"--flagfile: {error}: give a file with a flag in each line, in UTF-8"
        ) from error
    circular = said.getvalue().partition("\n")[0]
    require(
        not circular,
        f"--flagfile={circular.rpartition(': ')[2]} names itself: remove that line of it",
    )
    return found


def parse(argv: Sequence[str]) -> list[str]:
    """Parses the flags; whatever is wrong with them is the user's mistake.

    Raises:
      SystemExit: help was asked for, and is printed.
      UserError: with one line, and the nearest name for one that does not exist.
    """
    if not _HELP.isdisjoint(argv):
        # So that a reader such as `head` may leave early.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        print(_usage())
        sys.exit(0)
    given = ""
    try:
        argv = [argv[0], *_with_flag_files(argv[1:])]
        _ARGV[:] = argv
        for argument in argv:
            key = argument.partition("=")[0].removeprefix("--config.")
            here = checks.moved(key) if argument.startswith("--config.") else None
            require(not here, f"--config.{key} has moved: it is now {here}")
        words, given = _take_page(argv)
        others, unset = _take_unset(words)
        rest = flags.FLAGS(others)
        for key in unset:
            _unset(key)
        return rest
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(_explain(error)) from error
    except UserError:
        raise
    except Exception as error:  # whatever a user's page raises
        reason = " ".join(str(error).split())
        raise UserError(f"--config={given} failed with {type(error).__name__}: {reason}") from error


def main(argv: Sequence[str]) -> None:
    """Dispatches on `config.job`."""
    require(len(argv) == 1, f"unexpected argument {argv[-1]!r}: settings are --config.KEY=VALUE")
    require(
        _CONFIG.value is not None,
        "--config=PAGE is needed, such as --config=digits: --help lists the pages",
    )
    workdir = _WORKDIR.value or jobs.workdir_of(_CONFIG.value)
    require(workdir or _PREFLIGHT.value, "--workdir=DIR is needed: the folder of the run's outputs")
    require(_PREFLIGHT.value or not _LARGEST_BATCH.value, "--largest_batch needs --preflight=POD")
    folder = paths.outside(workdir, "--workdir") if workdir else pathlib.Path()
    config = _CONFIG.value
    require(
        config.get("job") in jobs.JOBS,
        f"config.job={config.get('job')!r} must be one of: {', '.join(jobs.JOBS)}",
    )
    checks.check_finite(config.to_dict())
    given = _given()
    checks.check_given(config, given)
    if config.job == "pretrain" and "recipe" not in given:
        page = pages.config_of(config.recipe)
        config.recipe = checks.with_changes(config.recipe, config.to_dict(), given, page)
    metrics.show_messages()
    if _PREFLIGHT.value:
        require(
            not config.get("choose"),
            "--preflight is for another machine, and config.choose=True chooses for this one: give "
            "a page without it, such as experiments/byol.py",
        )
        from byol_jax.jobs.preflight import report

        report.run(config, _PREFLIGHT.value, _LARGEST_BATCH.value)
        return
    if not any(argument.startswith("--verbosity") for argument in sys.argv):
        logging.set_verbosity(logging.WARNING)  # orbax tells each of its steps
    disk.quiet_background()
    cache.keep_compilations()
    _join()
    if processes.is_joined() and processes.is_first_process():
        interrupts.leave_last()
    processes.require_same({"--workdir": workdir} | checks.flatten(config.to_dict(), "config."))
    if processes.is_first_process():
        paths.require_writable(folder, "--workdir")
        if config.job in jobs.WITH_RESULTS:
            records.check_place(folder)
    jobs.fill(config, folder)
    if config.get("choose"):  # from images and devices, which may differ
        processes.require_same(checks.flatten(config.to_dict(), "config."))
    jobs.job_of(config.job)(config, folder)


def _join() -> None:
    """Joins the other processes, if there are any, and starts this one's devices.

    Raises:
      UserError: they do not come, or JAX has no such devices.
    """
    try:
        processes.initialize(
            processes.Hosts(
                coordinator=_COORDINATOR.value,
                num_processes=_NUM_PROCESSES.value,
                process_id=_PROCESS_ID.value,
                join_timeout=_JOIN_TIMEOUT.value,
                peer_timeout=_PEER_TIMEOUT.value,
            )
        )
    except Exception as error:
        if platforms.is_missing(error):
            platforms.check()
        raise
    platforms.check()


def run() -> None:
    """The program: exit codes are 0, 2, 3, 129, 130 and 143 (docs/outside.md)."""
    code = 0
    streams.guard()
    interrupts.watch()
    try:
        app.run(main, flags_parser=parse)
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = USER_ERROR
    except GuardError as error:
        print(f"stopped: {error}", file=sys.stderr)
        code = GUARD
    except Stopped as error:
        print(error, file=sys.stderr)
        code = 128 + error.number
    except interrupts.Interrupted as error:  # its line is out
        code = 128 + error.number
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except Exception as error:
        if interrupts.received():
            # Raised in a callback of a library, a signal comes out of it as an error of its own.
            code = 128 + interrupts.received()
        elif processes.is_lost_peer(error):
            reason = str(error).splitlines()[0]
            print(
                f"stopped: lost another process ({reason}): started again, all of them go on from "
                "the newest checkpoint",
                file=sys.stderr,
            )
            code = GUARD
        elif told := disk.explained(error):
            is_guard = isinstance(told, GuardError)
            print(f"{'stopped' if is_guard else 'error'}: {told}", file=sys.stderr)
            code = GUARD if is_guard else USER_ERROR
        elif processes.is_joined():
            # Python itself would wait for the others before it ended.
            traceback.print_exc()
            code = 1
        else:
            raise
    if code:
        processes.leave_soon(code)
    elif processes.is_joined() and not processes.is_first_process():
        # JAX aborts the first one if this one leaves before it.
        interrupts.enter("ends with the first process, which may still evaluate", polled=True)
    interrupts.told()
    with contextlib.suppress(GuardError, UserError):  # nothing that an earlier line does not say
        sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


if __name__ == "__main__":
    run()
