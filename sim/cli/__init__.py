"""The command `sim`: one module per subcommand, heavy imports only inside the functions that need them.

A subcommand reads options, calls one public function and prints a table or JSON; refusals become exit
statuses. May import everything, and knows no numbers of its own: what it prints, a script can compute.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from sim.inputs.errors import InfeasibleError, InputError, UnfinishedError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit: 0 done, 2 wrong input, 3 cannot be, 4 not finished, 130 interrupted.

    What went wrong is said on standard error, without a traceback; a traceback means a bug in the simulator.
    """
    sys.exit(status_of(arguments))


def status_of(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    from sim.cli.app import app

    try:
        status = app(args=arguments, prog_name="sim", standalone_mode=False)
        sys.stdout.flush()
    except (InputError, InfeasibleError, UnfinishedError) as refusal:
        _say(str(refusal))
        return refusal.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The pipe (`| head`) is closed at its other end. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _say(f"what the command prints cannot be written: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except Exception as error:
        usage = getattr(error, "format_message", None)  # typer's errors, whichever of its versions is here
        if usage is None:
            raise
        _say(str(usage()))
        return 2
    return status if isinstance(status, int) else 0


def _say(message: str) -> None:
    for line in message.rstrip().splitlines():
        print(f"sim: {line}", file=sys.stderr)
