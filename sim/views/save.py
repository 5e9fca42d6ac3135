"""A result as a folder: tables, summary, timeline, report, the scenario as it was run, and a manifest.

The folder is whole or absent. The manifest is written last and says what the run was (seed, version, digests
of the scenario and of every file that it was read from), how it ended, and what every file of the folder
hashes to. It has no times of day and no paths, so that the same run leaves the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sim.reading.data_files import code_digest, data_folder
from sim.results.saved import FORMAT, MANIFEST, SCENARIO, SETTING, TABLES, THEORY, VERDICT
from sim.results.saving import save_summary, save_table
from sim.results.whole_files import locked, refuse_what_is_there, whole_folder
from sim.version import __version__
from sim.views.naming import scenario_text, title_of
from sim.views.report import Run, write_report
from sim.views.timeline import TRACE, write_trace

if TYPE_CHECKING:
    import polars

    from sim.results.recorded import Recorded
    from sim.results.setting import FaultSetting

MAX_CSV_ROWS = 1_000_000  # beyond that a spreadsheet cannot open it, and Parquet is a tenth of the size
OF_OLDER_VERSIONS = ("trace.json",)  # --force replaces their folders too
FILES = (
    *(f"{name}.{suffix}" for name in TABLES for suffix in ("csv", "parquet")),
    *(MANIFEST, SCENARIO, "summary.json", VERDICT, THEORY, SETTING, TRACE, "report.html"),
    *OF_OLDER_VERSIONS,
)


class Saveable(Run, Protocol):
    """A run with all its tables and its scenario: `sim.simulate.Result` is one."""

    @property
    def gaps(self) -> polars.DataFrame: ...
    @property
    def gpus(self) -> polars.DataFrame: ...
    @property
    def scenario(self) -> Any: ...
    @property
    def ended(self) -> str: ...
    @property
    def is_complete(self) -> bool: ...
    @property
    def title(self) -> str: ...
    @property
    def recorded(self) -> Recorded | None: ...
    @property
    def faults(self) -> Sequence[FaultSetting]: ...
    @property
    def inputs(self) -> Iterable[Path]: ...


def save(run: Saveable, folder: Path, *, force: bool = False, tables: str = "") -> Path:
    """Write a run into `folder`, its tables as csv or parquet; by default as CSV as long as a spreadsheet can
    open them. InputError if it holds files already, unless `force`, and if it cannot be
    written or is being written by another run.
    """
    with locked(folder) as place:
        refuse_what_is_there(folder, force=force, own=FILES)
        save_into(run, place, tables)
    return folder


def save_into(run: Saveable, folder: Path, tables: str = "") -> tuple[str, ...]:
    """Write a run into a folder that is locked, in place of what it holds. Returns what is missing from it:
    nothing, or why the report has no charts, or up to when the timeline has every op.
    """
    with whole_folder(folder) as partial:
        for name in TABLES:
            frame: polars.DataFrame = getattr(run, name)
            suffix = tables or ("csv" if frame.height <= MAX_CSV_ROWS else "parquet")
            save_table(frame, partial / f"{name}.{suffix}")
        save_summary(run.summary(), partial / "summary.json")
        save_summary({"sentences": [one.as_dict() for one in run.explain()]}, partial / VERDICT)
        save_summary({"stations": [one.as_dict() for one in run.theory()]}, partial / THEORY)
        save_summary(run.surroundings.as_dict(), partial / SETTING)
        scenario = scenario_text(run.scenario)
        (partial / SCENARIO).write_text(scenario, encoding="utf-8")
        missing = write_trace(run, partial / TRACE, run.recorded, run.faults)
        missing += write_report(run, title_of(run.scenario), scenario, partial / "report.html")
        manifest = {
            "format": FORMAT,
            "version": __version__,
            "code": code_digest(),
            "title": title_of(run.scenario),
            "seed": run.seed,
            "ended": run.ended,
            "complete": run.is_complete,
            "end_s": run.end_s,
            "scenario": hashlib.sha256(scenario.encode()).hexdigest(),
            "inputs": _inputs(run.inputs),
            "files": {path.name: _sha256(path) for path in sorted(partial.iterdir())},
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return missing


def _inputs(paths: Iterable[Path]) -> list[dict[str, str]]:
    """Name and digest of every file of one's own; what is shipped is in the digest of the code."""
    shipped = [data_folder() / name for name in ("topologies", "workloads")]
    own = [path for path in paths if not any(path.is_relative_to(folder) for folder in shipped)]
    found = {(path.name, _sha256(path) if path.is_file() else "") for path in own}
    return [{"name": name, "sha256": digest} for name, digest in sorted(found)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
