"""A result as a folder: tables, summary, timeline, report, and the scenario as it was run."""

from __future__ import annotations

from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, Protocol

from sim.inputs.errors import InputError
from sim.results.saving import save_summary, save_table
from sim.views.report import Run, write_report
from sim.views.timeline import write_trace

if TYPE_CHECKING:
    import polars

MAX_CSV_ROWS = 1_000_000  # beyond that a spreadsheet cannot open it, and Parquet is a tenth of the size
TABLES = ("requests", "steps", "gaps", "links", "gpus", "blame", "blame_ttft", "blame_itl", "kv_blocks")


class Saveable(Run, Protocol):
    """A run with all its tables and its scenario: `sim.simulate.Result` is one."""

    @property
    def gaps(self) -> polars.DataFrame: ...
    @property
    def blame_ttft(self) -> polars.DataFrame: ...
    @property
    def blame_itl(self) -> polars.DataFrame: ...
    @property
    def gpus(self) -> polars.DataFrame: ...
    @property
    def scenario(self) -> Any: ...


def save(run: Saveable, folder: Path, *, force: bool = False) -> Path:
    """Write a run into `folder`. InputError if it holds files already, unless `force`."""
    claim(folder, force=force)
    for name in TABLES:
        frame: polars.DataFrame = getattr(run, name)
        suffix = "csv" if frame.height <= MAX_CSV_ROWS else "parquet"
        save_table(frame, folder / f"{name}.{suffix}")
    save_summary(run.summary(), folder / "summary.json")
    scenario = scenario_text(run.scenario)
    (folder / "scenario.resolved.yaml").write_text(scenario, encoding="utf-8")
    write_trace(run.requests, run.steps, run.kv_blocks, folder / "trace.json")
    write_report(run, title_of(run.scenario), scenario, folder / "report.html")
    return folder


def claim(folder: Path, *, force: bool = False) -> None:
    """Make a folder for a result. InputError if it is a file, holds files already, or cannot be made."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder")
    if not force and folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} already holds files; name another folder, or add --force (force=True)")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Tried and taken back: what a run that fails leaves behind must not refuse the next one.
        with NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}") from error


def scenario_text(scenario: Any) -> str:
    """The whole scenario as YAML, defaults included."""
    import yaml

    described = scenario.model_dump(mode="json", by_alias=True, exclude_none=True)
    text: str = yaml.safe_dump(described, sort_keys=False, allow_unicode=True, width=110)
    return text


def title_of(scenario: Any) -> str:
    """What the report is called."""
    models = dict.fromkeys(str(model.name) for model in getattr(scenario, "models", ()) or (scenario.model,))
    return f"{', '.join(models)} on {scenario.topology.name}, {scenario.topology.servers} node(s)"
