"""The command `sim`: one module per subcommand, heavy imports only inside the functions that need them.

A subcommand reads options, calls one public function and prints a table or JSON; refusals become exit
statuses. May import everything, and knows no numbers of its own: what it prints, a script can compute.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as type checkers know it: until `main` listens, every import is time without handlers
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

INTERRUPTED = 130  # 128 + SIGINT, as shells have it; 143 is 128 + SIGTERM
BUG = 70  # EX_SOFTWARE of sysexits.h: an internal software error
BROKEN_INVARIANT = 71  # a bug, too, that `--check` has found
REPORT_AT = "the project's issue tracker"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit: 0 done, 2 wrong input, 3 cannot be, 4 not finished, 70 a bug in the
    simulator, 71 one that a self-check has found, 130 interrupted, 143 terminated.

    What went wrong is said on standard error, without a traceback; SIM_DEBUG=1 shows that of a bug.
    """
    try:
        from sim.cli.signals import signals

        signals.listen()
    except KeyboardInterrupt:  # before there is a handler, Python raises its own
        os._exit(INTERRUPTED)
    status = status_of(arguments)
    try:
        sys.stdout.flush()
    except OSError:
        _give_up_output()
    sys.exit(status)


def status_of(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    from sim.cli.app import Ended, app
    from sim.cli.signals import signals
    from sim.inputs.errors import InfeasibleError, InputError, UnfinishedError

    try:
        try:
            with signals.raise_inside():
                status = app(args=arguments, prog_name="sim", standalone_mode=False)
                sys.stdout.flush()
            if signals.number:  # typer has taken it, or nothing has
                raise signals.interrupted()
        except Ended as ended:
            raise ended.__cause__ or ended from None
    except (InputError, InfeasibleError, UnfinishedError) as refusal:
        _say(str(refusal))
        return refusal.exit_status
    except KeyboardInterrupt as interrupt:
        return _interrupted(interrupt)
    except BrokenPipeError:
        _give_up_output()
        return 0
    except OSError as error:
        return _file_error(error)
    except SystemExit:
        raise
    except BaseException as error:  # panics of libraries in Rust are no Exception
        if signals.number:
            # A library made another error of the one that a signal raised, as where it was being imported.
            return _interrupted(signals.interrupted())
        usage = getattr(error, "format_message", None)  # typer's errors, whichever of its versions is here
        if usage is None:
            return _bug(error)
        _say(str(usage()))
        return 2
    return status if isinstance(status, int) else 0


def _interrupted(interrupt: KeyboardInterrupt) -> int:
    from sim.cli.signals import Interrupted, signals

    known = interrupt if isinstance(interrupt, Interrupted) else signals.interrupted()
    _say(str(known))
    return 128 + known.number


def _file_error(error: OSError) -> int:
    # Of a file, its name is known; what has none is the output of the command.
    if error.filename is not None:
        _say(f"{error.filename} cannot be read or written: {error.strerror}")
    else:
        _say(f"what the command prints cannot be written: {error.strerror or error}")
        _give_up_output()
    return 2


def _give_up_output() -> None:
    """The pipe (`| head`) is closed at its other end, or its disk full: Python would complain again when it
    flushes at exit.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _bug(error: BaseException) -> int:
    """Say what went wrong, where, and how to report it."""
    import traceback

    from sim.version import __version__

    if os.environ.get("SIM_DEBUG") == "1":
        traceback.print_exception(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if f"{os.sep}sim{os.sep}" in frame.filename] or frames
    where = ""
    if own:
        where = f" in {own[-1].name} ({'/'.join(own[-1].filename.split(os.sep)[-3:])}:{own[-1].lineno})"
    first_line = (str(error).splitlines() or [""])[0][:200]
    _say(
        f"this is a bug in fabricsim {__version__}, not in what you wrote: {type(error).__name__}"
        f"{': ' if first_line else ''}{first_line}{where}. Please report it at {REPORT_AT}, with the "
        "command, the files that it reads, and the traceback that it prints with SIM_DEBUG=1 before it."
    )
    return BROKEN_INVARIANT if hasattr(error, "invariant") else BUG


def _say(message: str) -> None:
    for line in message.rstrip().splitlines():
        print(f"sim: {line}", file=sys.stderr)
