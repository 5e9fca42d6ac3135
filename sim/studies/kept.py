"""Rows of a study, kept as they come: each is a line of JSON beside the table that the study will leave.

A study that is interrupted or killed goes on with what is left, when it is run again into the same table. A
line is taken up by the same code for the same scenarios only: the file says of which it is.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.inputs.errors import InputError, Problem
from sim.reading.data_files import code_digest
from sim.reading.files_read import files_read
from sim.results.saving import save_table
from sim.results.whole_files import check_writable, locked, refuse_existing_file, unwritable, whole_file
from sim.scenario import Scenario
from sim.workload.request_sampler import describe_traces

if TYPE_CHECKING:
    import polars

    from sim.studies.points import Point, Row

ROW = {
    "key": str,
    "status": str,
    "reason": str,
    "summary": dict,
    "causes": dict,
    "wall_s": float,
    "links": dict,
    "digest": str,
}
REAL_TIME = ("wall_s",)  # columns that differ between two runs of the same study: in no file


class Kept:
    """The rows of one study that are on disk. `table` is the file that the study will leave."""

    def __init__(self, table: Path, *, force: bool = False) -> None:
        self.table = table
        self.rows_file = table.with_name(f"{table.name}.rows")
        self.failure = ""  # why rows are no longer kept, as on a full disk
        self._force = force
        self._study = ""
        self._rows: dict[str, dict[str, Any]] = {}

    def begin(self, scenarios: Sequence[Scenario], *, is_drawn: bool = False) -> None:
        """Take up what is there of a study of these scenarios. InputError for rows of another study, and for
        scenarios that are drawn one by one: what study they are is known at its end only.
        """
        if self._study:
            return
        if is_drawn:
            raise InputError("keep= does not take scenarios that are drawn one by one; store= does")
        self._study = _digest(scenarios)
        if self._force:
            self.rows_file.unlink(missing_ok=True)
        if self.rows_file.is_file():
            self._take_up(self.rows_file.read_bytes())
            if self._rows:
                print(f"going on with {len(self._rows)} runs of {self.rows_file.name}", file=sys.stderr)
        else:
            self._add({"study": self._study})

    def _take_up(self, content: bytes) -> None:
        """A line that a kill has cut off is dropped, also from the file."""
        lines = content.split(b"\n")
        whole, rest = lines[:-1], lines[-1]
        try:
            read = [json.loads(line) for line in whole]
        except (ValueError, RecursionError):
            read = [{}]
        if read and read[0] != {"study": self._study}:
            raise InputError(
                f"{self.rows_file} holds rows of another study, or of another version of fabricsim; name "
                "another table, or add --force"
            )
        for number, line in enumerate(read[1:], start=2):
            if not _is_row(line):
                what = "is not as a study has written it; remove the line, or add --force"
                raise InputError(Problem(what, str(self.rows_file), number))
        if not read:
            self.rows_file.unlink()
            self._add({"study": self._study})
        elif rest:
            with self.rows_file.open("r+b") as file:
                file.truncate(len(content) - len(rest))
        self._rows = {line["key"]: line for line in read[1:]}

    def row(self, point: Point) -> Row | None:
        """The row of a point, if it has run before."""
        from sim.studies.points import Row

        line = self._rows.get(point_key(point.scenario, point))
        if line is None:
            return None
        numbers = line["summary"], line["causes"], line["wall_s"], line["links"]
        return Row(point, line["status"], line["reason"], *numbers)

    def add(self, row: Row) -> None:
        """Keep a row that has come to its end. What is infeasible or wrong is found again at once, and what
        has failed may do better next time: only numbers are kept.
        """
        if row.status == "done":
            numbers = {"summary": row.summary, "causes": row.causes, "wall_s": row.wall_s, "links": row.links}
            line = {
                "key": point_key(row.point.scenario, row.point),
                "status": row.status,
                "reason": row.reason,
                **numbers,
            }
            self._add({**line, "digest": row_digest(line)})

    def _add(self, line: dict[str, Any]) -> None:
        if self.failure:
            return
        try:
            with self.rows_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, default=plain) + "\n")
        except OSError as error:  # a study does not end for want of disk: its table is still printed
            self.failure = str(unwritable(self.rows_file, error))

    def claim(self, point: Point) -> bool:
        """Whether this process is to run a point: always, since it holds the table alone."""
        return True

    def save(self, table: polars.DataFrame, *, is_complete: bool) -> None:
        """Write the table. The rows stay beside a table that is not complete, for a run that goes on."""
        with whole_file(self.table) as partial:
            save_table(table.drop(REAL_TIME, strict=False), partial, kind=self.table.suffix)
        if is_complete:
            with suppress(OSError):
                self.rows_file.unlink(missing_ok=True)


@contextmanager
def kept(table: Path, *, force: bool = False) -> Iterator[Kept]:
    """Hold a table for one study. InputError, before any run, where it exists already (an incomplete one,
    with its rows beside it, is gone on with), cannot be written, or another study is writing it.
    """
    if table.suffix not in (".csv", ".parquet"):
        raise InputError(f"{table}: must end in .csv or .parquet")
    with locked(table) as place:
        rows = Kept(place, force=force)
        refuse_existing_file(table, force=force or rows.rows_file.is_file())
        check_writable(place.parent)
        yield rows


def _digest(scenarios: Sequence[Scenario]) -> str:
    digest = hashlib.sha256(code_digest().encode())
    for scenario in scenarios:
        digest.update(scenario_digest(scenario).encode())
    return digest.hexdigest()[:16]


def scenario_digest(scenario: Scenario) -> str:
    """Of a scenario, and of the files that it reads."""
    digest = hashlib.sha256(scenario.model_dump_json(by_alias=True).encode())
    with files_read() as traces, suppress(InputError):  # a trace that cannot be read is for the runs to say
        describe_traces(scenario.workload)
    for path in sorted(scenario.files_read | traces):
        if path.is_file():
            with path.open("rb") as file:  # a piece at a time: a trace may have gigabytes
                while piece := file.read(1 << 20):
                    digest.update(piece)
    return digest.hexdigest()[:16]


def _is_row(line: Any) -> bool:
    """Whether a line is one that `Kept.add` has written, with the values that it had."""
    return (
        isinstance(line, dict)
        and {name: type(value) for name, value in line.items()} == ROW
        and line["digest"] == row_digest({name: value for name, value in line.items() if name != "digest"})
    )


def row_digest(line: Mapping[str, Any]) -> str:
    """Of what a kept row says: a value that was changed in its file is not taken for a result."""
    return hashlib.sha256(json.dumps(line, default=plain).encode()).hexdigest()[:16]


def point_key(scenario: int | str, point: Point) -> str:
    """A point as text; `scenario` is its number, or its digest where numbers do not last."""
    return json.dumps([scenario, [*map(list, point.changes)], point.seed], default=repr)


def plain(value: Any) -> Any:
    """numpy's scalars."""
    return value.item() if hasattr(value, "item") else str(value)
