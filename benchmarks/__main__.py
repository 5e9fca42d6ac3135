"""Run the benchmarks named on the command line, or all: each module of this folder has a `main()`.

`--out PAGE` also writes what they print to a page, with what they mean and on which machine.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import pkgutil
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import benchmarks

ALL = sorted(
    module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.name.startswith("_")
)
PAGE = """# Performance

What a run costs, measured by `make bench`, which writes this page. {machine}

A step of an engine is a program of kernels and collectives. It can be *played*, one event an op, or *folded*
into one event while its links carry nothing else; consecutive decode steps of a batch that cannot change fold
together. Both leave the same records (`tests/laws/test_folding.py` holds them against each other on random
scenarios), so `--no-fold` is a check and not a mode. What makes a run slow, in this order:

* **Changes of a batch.** Every arrival and every finish of a request ends a fold. What each costs stands
  below, for 64 and for 256 requests in service: sequences that decode together are counted as one, so it
  grows far less than the batch. In a pipeline, where several batches are in flight, it grows with it.
* **Sharing of links.** While something else is on a group's links, the group is played. Two groups that
  always share a link are always played.
* **Pipeline stages whose batches meet on a link.** With one batch in flight, or where all stages and the
  ways between them have links of their own, a pipeline whose batches go round unchanged folds as a whole.
  Elsewhere each stage folds its steps one by one: what it is sent is gathered over the links of its
  all-reduces.
* Never the number of tokens: no event, object or row belongs to a token.

Figures are CPU times, or ratios within one run, so that they mean something on a busy machine too. A **no**
is a goal that we set ourselves and do not meet.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ALL))
    parser.add_argument("--out", type=Path, help="also write a page")
    wanted = parser.parse_args()
    sections, machine = [], _machine()
    for name in wanted.names or ALL:
        if name not in ALL:
            sys.exit(f"no benchmark {name!r}; there are {', '.join(ALL)}")
        module = importlib.import_module(f"benchmarks.{name}")
        title, _, prose = (module.__doc__ or "").strip().partition("\n")
        head = f"\n## {name}: {title}\n{prose}\n"
        print(head, flush=True)
        sections.append(head + "\n" + _printed(module.main))
        if wanted.out:  # after each, so that what has been measured is not lost
            wanted.out.write_text(PAGE.format(machine=machine) + "".join(sections))


def _printed(run: Callable[[], None]) -> str:
    """What a benchmark prints, which is shown as it comes."""
    kept, shown = io.StringIO(), sys.stdout

    class Both(io.TextIOBase):
        def write(self, text: str) -> int:
            shown.write(text)
            return kept.write(text)

    with contextlib.redirect_stdout(Both()):
        run()
    return kept.getvalue()


def _machine() -> str:
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return (
        f"This one was written on a machine with {os.cpu_count()} processors ({platform.machine()}, "
        f"{platform.system()}), {platform.python_implementation()} {platform.python_version()}, while its "
        f"load was {load} over the last 1, 5 and 15 minutes."
    )


if __name__ == "__main__":
    main()
