"""A checkpoint of published rows, simulated on all processors: each is kept as soon as it has ended.

What one row gave is a line of JSON in a file of the user's. A run that is interrupted goes on with what is
left. A line is taken up again by the same code and data only: it carries a digest of both.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from sim.inputs.errors import InfeasibleError, InputError, Problem, UnfinishedError
from sim.reading.data_files import code_digest
from sim.results.compared import Row
from sim.workers import first_done, worker_pool

CUT_OFF = '{"digest": "'  # how a kept line begins


@dataclass(frozen=True)
class Case:
    """A published row: its table, and its cells by column."""

    table: str
    cells: Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """What came of a case: rows of the ledger, or why there are none."""

    case: Case
    rows: tuple[Row, ...]
    reason: str = ""


Simulate = Callable[[Case], list[Row]]


def outcome_of(simulate: Simulate, case: Case) -> Outcome:
    """Simulate one case; a case that cannot be has the reason."""
    try:
        return Outcome(case, tuple(simulate(case)))
    except (InfeasibleError, UnfinishedError) as error:
        return Outcome(case, (), str(error))


def outcomes(
    simulate: Simulate,
    cases: Sequence[Case],
    processes: int | None = None,
    keep: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Outcome]:
    """Outcomes of all cases, in their order, on so many processes (all processors).

    `simulate` is a function at the top of a module. What is in the file `keep` already is not run again, and
    all that ends is added to it at once. `on_progress` gets how many cases have ended, of how
    many.
    """
    digest = code_digest() if keep is not None else ""
    kept = _kept(keep, digest)
    keys = [_key(case) for case in cases]
    found = {key: _read(case, kept[key]) for key, case in zip(keys, cases, strict=True) if key in kept}
    left = {key: case for key, case in zip(keys, cases, strict=True) if key not in found}
    total = len(found) + len(left)
    on_progress(len(found), total)

    def ended(key: str, outcome: Outcome) -> None:
        found[key] = outcome
        if keep is not None:
            _add(keep, digest, key, outcome)
        on_progress(len(found), total)

    workers = max(1, min(processes or os.cpu_count() or 1, len(left)))
    if workers == 1:
        for key, case in left.items():
            ended(key, outcome_of(simulate, case))
    else:
        fresh = get_context("spawn")  # a forked process would wait for ever for polars' threads
        with worker_pool(workers, fresh) as pool:
            running: dict[Future[Outcome], str] = {
                pool.submit(outcome_of, simulate, case): key for key, case in left.items()
            }
            while running:  # an interruption ends the workers; what has ended is kept
                for future in first_done(running):
                    ended(running.pop(future), future.result())
    return [found[key] for key in keys]


def _key(case: Case) -> str:
    return hashlib.sha256(json.dumps([case.table, dict(case.cells)]).encode()).hexdigest()[:24]


def _kept(keep: Path | None, digest: str) -> dict[str, dict[str, Any]]:
    """Lines of this very code; a line that an interruption cut off is passed over. InputError for a file
    with anything else in it, which stays as it is.
    """
    kept: dict[str, dict[str, Any]] = {}
    if keep is None or not keep.is_file():
        return kept
    text = keep.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            saved = json.loads(line)
        except json.JSONDecodeError:
            if line.startswith(CUT_OFF[: len(line)]):
                continue
            saved = None
        if not isinstance(saved, dict) or set(saved) != {"digest", "key", "rows", "reason"}:
            raise InputError(Problem("is not a row of a checkpoint; name another file", str(keep), number))
        if saved["digest"] == digest:
            kept[saved["key"]] = saved
    if text and not text.endswith("\n"):
        keep.write_text(text + "\n", encoding="utf-8")
    return kept


def _read(case: Case, saved: Mapping[str, Any]) -> Outcome:
    return Outcome(case, tuple(Row(**row) for row in saved["rows"]), saved["reason"])


def _add(keep: Path, digest: str, key: str, outcome: Outcome) -> None:
    keep.parent.mkdir(parents=True, exist_ok=True)
    saved = {
        "digest": digest, "key": key, "rows": [asdict(row) for row in outcome.rows],
        "reason": outcome.reason,
    }  # fmt: skip
    with keep.open("a", encoding="utf-8") as file:
        file.write(json.dumps(saved) + "\n")
