"""A store of runs: one SQLite file that keeps every row of a study as it comes, and that processes may share.

A row is known by its point (scenario, changes, seed) and holds for the digests of the scenario, of the files
that it reads and of the simulator's code. A process claims a point before it runs it, so that two processes
that fill one store run nothing twice; a claim ends with its process. SQLite's write-ahead log lets all of
them read and write, on one machine: such a log does not work over a network file system.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import sim
from sim.inputs.errors import InputError
from sim.reading.data_files import code_digest
from sim.results.whole_files import check_writable, locked
from sim.studies.kept import plain, point_key, row_digest, scenario_digest

if TYPE_CHECKING:
    from sim.scenario import Scenario
    from sim.studies.points import Keeps, Point, Row

APPLICATION_ID = 0x66736D73  # "fsms", in the header of the file (PRAGMA application_id)
BUSY_S = 60.0  # waits so long for another process's write, each of which takes milliseconds
FINAL = (
    "done",
    "infeasible",
    "wrong input",
    "unfinished",
)  # what the same code says again; the rest may mend
TABLE = """
CREATE TABLE IF NOT EXISTS rows (
    point TEXT PRIMARY KEY,   -- [scenario, [[key, value], ...], seed]
    scenario TEXT NOT NULL,   -- digest of the scenario and of the files that it reads
    code TEXT NOT NULL,       -- digest of the simulator and its data
    version TEXT NOT NULL,
    owner TEXT NOT NULL,      -- the process that runs it, or ran it
    status TEXT,              -- NULL: under way
    reason TEXT, summary TEXT, causes TEXT, wall_s REAL, links TEXT,
    digest TEXT               -- of what the row says
)
"""


class Store:
    """The rows of one study in a file. `recompute` runs those of other code or of a scenario that has changed
    again; else they are refused.
    """

    def __init__(self, path: Path, owner: str, *, recompute: bool = False) -> None:
        self.path = path
        self.owner = owner
        self.failure = ""  # why rows are no longer kept, as on a full disk
        self.taken_up = 0  # rows that an earlier run had left, or another process
        self._recompute = recompute
        self._scenarios: Sequence[Scenario] = ()
        self._digests: dict[int, str] = {}
        self._code = code_digest()
        self._is_drawn = False
        self._begun = False
        try:
            self._database = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
            (found,) = self._database.execute("PRAGMA application_id").fetchone()
            (tables,) = self._database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if found != APPLICATION_ID and tables:
                raise InputError(f"{path} is a database of another program; name another file")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing
            self._database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._database.execute(TABLE)
            if "digest" not in {column[1] for column in self._database.execute("PRAGMA table_info(rows)")}:
                self._database.execute("ALTER TABLE rows ADD COLUMN digest TEXT")  # older versions had none
        except sqlite3.Error as error:
            raise InputError(f"{path} is no store of runs ({error}); name another file") from error

    def begin(self, scenarios: Sequence[Scenario], *, is_drawn: bool = False) -> None:
        """Refuse, or with `recompute` forget, what other code or other scenarios have left. Scenarios that
        are drawn one by one (`is_drawn`) are known by what they are, and not by their number.
        """
        if self._begun:
            return
        self._scenarios, self._is_drawn, self._begun = scenarios, is_drawn, True
        stale: list[tuple[str, tuple[str | int, ...], str]] = [("code != ?", (self._code,), "other code")]
        for number in () if is_drawn else range(len(scenarios)):
            other = "scenario != ? AND json_extract(point, '$[0]') = ?"
            stale.append((other, (self._digest_of(number), number), "a scenario that has changed since"))
        with self._writing():
            for condition, values, what in stale:
                row = self._database.execute(
                    f"SELECT count(*), min(version) FROM rows WHERE status IS NOT NULL AND {condition}",
                    values,
                ).fetchone()
                if row[0] and not self._recompute:
                    raise self._stale(f"{row[0]} rows", what, row[1])
                self._database.execute(f"DELETE FROM rows WHERE status IS NOT NULL AND {condition}", values)

    def row(self, point: Point) -> Row | None:
        """The row of a point, if it has run before, here or in another process."""
        from sim.studies.points import Row

        key = self._key(point)
        try:
            found = self._database.execute(
                "SELECT status, reason, summary, causes, wall_s, links, digest FROM rows "
                "WHERE point = ? AND status IS NOT NULL AND scenario = ? AND code = ?",
                (key, self._digest_of(point.scenario), self._code),
            ).fetchone()
        except sqlite3.Error as error:
            raise InputError(f"{self.path} cannot be read: {error}; name another file") from error
        if found is None:
            return None
        *said, digest = found
        if digest != row_digest({"key": key, "row": said}):
            raise InputError(
                f"{self.path}: the row of {key} is not as a study has written it; delete it, or name another "
                "store"
            )
        self.taken_up += 1
        status, reason, summary, causes, wall_s, links = said
        return Row(point, status, reason, json.loads(summary), json.loads(causes), wall_s, json.loads(links))

    def claim(self, point: Point) -> bool:
        """Whether this process is to run a point. False where another runs it, or has run it."""
        key, digest = self._key(point), self._digest_of(point.scenario)
        with self._writing():
            found = self._database.execute(
                "SELECT owner, status, scenario, code, version FROM rows WHERE point = ?", (key,)
            ).fetchone()
            if found is not None:
                owner, status, *holds_for, version = found
                if status is None and owner != self.owner and _is_alive(self.path, owner):
                    return False
                if status is not None and holds_for == [digest, self._code]:
                    return False
                if status is not None and not self._recompute:  # it came while this study was under way
                    raise self._stale("a row", "other code, or of a scenario that has changed", version)
            self._database.execute(
                "INSERT OR REPLACE INTO rows (point, scenario, code, version, owner) VALUES (?, ?, ?, ?, ?)",
                (key, digest, self._code, sim.__version__, self.owner),
            )
        return True

    def add(self, row: Row) -> None:
        """Keep a row that has come to its end; what may end in another way next time is given back."""
        if self.failure:
            return
        key = self._key(row.point)
        try:
            if row.status not in FINAL:
                self._database.execute(
                    "DELETE FROM rows WHERE point = ? AND owner = ? AND status IS NULL", (key, self.owner)
                )
                return
            numbers = (_json(row.summary), _json(row.causes), row.wall_s, _json(row.links))
            said = (row.status, row.reason, *numbers)
            values = (*said, row_digest({"key": key, "row": said}))
            self._database.execute(
                "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (key, self._digest_of(row.point.scenario), self._code, sim.__version__, self.owner, *values),
            )
        except sqlite3.Error as error:  # a study does not end for want of disk: its table is still printed
            self.failure = f"{self.path} cannot be written: {error}"

    def close(self) -> None:
        """Give back what this process has claimed and not run."""
        with suppress(sqlite3.Error):
            self._database.execute("DELETE FROM rows WHERE owner = ? AND status IS NULL", (self.owner,))
        with suppress(sqlite3.Error):
            self._database.close()

    def _stale(self, rows: str, what: str, version: str) -> InputError:
        return InputError(
            f"{self.path} has {rows} of {what} (fabricsim {version}); add --recompute (recompute=True) to "
            "run them again, or name another store"
        )

    def _digest_of(self, number: int) -> str:
        digest = self._digests.get(number)
        if digest is None:
            digest = self._digests[number] = scenario_digest(self._scenarios[number])
        return digest

    def _key(self, point: Point) -> str:
        name = self._digest_of(point.scenario) if self._is_drawn else point.scenario
        return point_key(name, point)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction beside which no other process writes. InputError where the file cannot be
        written.
        """
        try:
            self._database.execute("BEGIN IMMEDIATE")
            with self._database:
                yield
        except sqlite3.Error as error:
            raise InputError(f"{self.path} cannot be written: {error}") from error


@contextmanager
def stored(path: str | Path, *, resume: bool = True, recompute: bool = False) -> Iterator[Store]:
    """Open a store for one study, made where it is not there. InputError where it holds rows and `resume` is
    off, or is no store.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file, as in {path / 'study.sqlite'}")
    if path.exists() and path.stat().st_size and not (resume or recompute):
        raise InputError(f"{path} exists; add --resume to go on with its rows, or name another store")
    check_writable(path.resolve().parent)
    owner = f"{os.getpid()}-{secrets.token_hex(4)}"
    # A lock ends with its process, however that ends: whoever can take it knows that its claims are void.
    with ExitStack() as held:
        held.enter_context(locked(_mark(path, owner)))
        store = Store(path, owner, recompute=recompute)
        held.callback(store.close)
        yield store


@contextmanager
def kept_or_stored(
    keep: Keeps | None, store: str | Path | None, *, recompute: bool = False
) -> Iterator[Keeps | None]:
    """What keeps the rows of a study: what its caller holds already, or a store, open until the study ends.
    InputError for both.
    """
    if store is None:
        yield keep
        return
    if keep is not None:
        raise InputError("keep= and store= are two places for the same rows; give one of them")
    with stored(store, recompute=recompute) as rows:
        yield rows


def _mark(path: Path, owner: str) -> Path:
    """What a process that fills a store holds a lock on; no file of this name comes into being."""
    place = path.resolve()
    return place.with_name(f"{place.name}.{owner}")


def _is_alive(path: Path, owner: str) -> bool:
    try:
        with locked(_mark(path, owner)):
            return False
    except InputError:
        return True


def _json(numbers: object) -> str:
    return json.dumps(numbers, default=plain)
