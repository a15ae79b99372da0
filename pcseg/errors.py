"""What goes wrong through a user's input, and how a command says so."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType

GRACE = 10.0
"""Seconds that the other processes of a run wait before they say what went wrong."""


class InputError(ValueError):
    """Input that a user can mend. The message is one line: what is wrong, where, and how to mend it."""


def run_command(main: Callable[[], None]) -> None:
    """Run a command's ``main``: a user's mistake becomes one line on stderr and exit code 2, Ctrl-C exit code 130.

    Anything else is a defect of pcseg and keeps its traceback. ``PCSEG_TRACEBACK=1`` keeps every traceback. Where the
    reader of the output has gone (``--help | head``) the command ends silently, with the exit code of SIGPIPE.

    Of several processes on a machine the first one speaks. What went wrong there mostly went wrong in all of them, and
    a launcher ends the others as soon as one has ended; so they wait a little, and speak if they are still there.
    """
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    try:
        try:
            main()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        if first:
            print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        sys.exit(141)
    except (InputError, OSError) as error:
        if os.environ.get("PCSEG_TRACEBACK") == "1":
            raise
        if not first:
            time.sleep(GRACE)
        print(f"error: {describe(error)}", file=sys.stderr)
        sys.exit(2)


def hush_interrupts() -> None:
    """Ctrl-C while a command still imports what it needs, and :func:`run_command` is not there yet, is one line too."""
    pairs = zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    if any(flag == "-m" and module.startswith(("pcseg.", "data_prep.")) for flag, module in pairs):
        sys.excepthook = _tell_uncaught


def _tell_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt) and os.environ.get("PCSEG_TRACEBACK") != "1":
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def describe(error: Exception) -> str:
    """One line for an error: for an ``OSError`` the file and the system's reason."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split())
