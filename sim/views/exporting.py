"""A run into the files of others: AIPerf's and vLLM's JSON, CSV, Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from sim.inputs.errors import InputError
from sim.results.exports import aiperf, vllm
from sim.results.saving import save_summary, save_table
from sim.results.whole_files import whole_file

if TYPE_CHECKING:
    import polars

    from sim.results.records import Records


class Rows(Protocol):
    """A run, just ended or read back."""

    @property
    def title(self) -> str: ...
    @property
    def scenario_text(self) -> str: ...
    @property
    def records(self) -> Records: ...


KINDS = ("aiperf", "vllm", "csv", "parquet")
BY_SUFFIX = {".json": "aiperf", ".csv": "csv", ".parquet": "parquet"}


def export(run: Rows, path: Path, kind: str | None, *, table: str, force: bool) -> Path:
    """Write the file, whole or not at all."""
    chosen = kind or BY_SUFFIX.get(path.suffix, "")
    if chosen not in KINDS:
        known = ", ".join(KINDS)
        raise InputError(f"{path}: must end in {', '.join(BY_SUFFIX)}, or be said as one of {known}")
    if path.exists() and not force:
        raise InputError(f"{path} exists; name another file, or add --force")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}; make it, or name another file")
    with whole_file(path) as partial:
        if chosen == "aiperf":
            save_summary(aiperf(run.records), partial)
        elif chosen == "vllm":
            save_summary(vllm(run.records, *_model_and_arrivals(run)), partial)
        else:
            save_table(table_of(run, table), partial, kind=f".{chosen}")
    return path


def _model_and_arrivals(run: Rows) -> tuple[str, dict[str, Any]]:
    written: dict[str, Any] = yaml.safe_load(run.scenario_text)
    workload = written.get("workload")
    arrivals = workload.get("arrivals") if isinstance(workload, dict) else None
    return run.title.split(" on ")[0], arrivals if isinstance(arrivals, dict) else {}


def table_of(run: object, name: str) -> polars.DataFrame:
    """A table of a run by its name. InputError for another."""
    from sim.inputs.errors import InputError
    from sim.reading.problems import unknown_name
    from sim.results.saved import TABLES

    if name not in TABLES:
        raise InputError(unknown_name("table", name, list(TABLES)))
    frame: polars.DataFrame = getattr(run, name)
    return frame
