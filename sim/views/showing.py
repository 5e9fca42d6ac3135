"""What a run can show of itself in a notebook and a script, whether it has just ended or was read back; and
a sweep of runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from sim.results.laws import Little, little
from sim.results.over_time import over_time

if TYPE_CHECKING:
    import altair
    import polars

    from sim.results.records import Records
    from sim.results.sentences import Verdict
    from sim.views import studied
    from sim.views.lines import Theory
    from sim.views.report import Run

ROWS = 100  # of `over_time` where no interval is asked for


class Rows(Protocol):
    """A run with its rows, its title and its scenario."""

    @property
    def records(self) -> Records: ...
    @property
    def end_s(self) -> float: ...
    @property
    def title(self) -> str: ...
    @property
    def scenario_text(self) -> str: ...
    def explain(self) -> Verdict: ...


class Shown:
    """Views of a run that has rows: charts, its state at each moment, Little's law, HTML for a notebook."""

    __slots__ = ()

    def over_time(self: Rows, every_s: float | None = None, replica: int | None = None) -> polars.DataFrame:
        """Requests running and waiting, tokens a second and KV blocks in use, one row per `every_s` seconds
        (a hundredth of the run), of one replica or of all. ValueError unless `every_s` is above zero.
        """
        return over_time(
            self.records, every_s if every_s is not None else (self.end_s or 1.0) / ROWS, replica
        )

    def little(self: Rows) -> Little | None:
        """Both sides of Little's law over the whole run; None where no time passed."""
        return little(self.records)

    @property
    def charts(self) -> RunCharts:
        """Its charts: `result.charts.latency()`, `.load()`, `.causes()`, `.requests()`, `.links()`."""
        return RunCharts(cast("Run", self))

    def report(self, path: str | Path) -> Path:
        """Write the page that `save` leaves as report.html to a file of any name."""
        return self._write_report(Path(path), None)

    def to_pandas(self, table: str = "requests") -> Any:
        """A table as a pandas DataFrame: requests, steps, links, gpus, blame, ...

        InputError for an unknown table, and where pandas and pyarrow are not installed
        (`pip install fabricsim[arrow]`).
        """
        with _extra("pandas"):
            from sim.views.exporting import table_of

            return table_of(self, table).to_pandas()

    def to_arrow(self, table: str = "requests") -> Any:
        """A table as a pyarrow Table; otherwise as `to_pandas`."""
        with _extra("pyarrow"):
            from sim.views.exporting import table_of

            return table_of(self, table).to_arrow()

    def export(
        self,
        path: str | Path,
        kind: str | None = None,
        *,
        table: str = "requests",
        force: bool = False,
    ) -> Path:
        """Write the run as others write theirs: `aiperf` or `vllm` (JSON), or a table as `csv` or `parquet`.

        Without a `kind` the ending of `path` says it; of .json it is AIPerf's. InputError for other endings,
        and for a file that is there, unless `force`.
        """
        from sim.views.exporting import export

        return export(cast("Rows", self), Path(path), kind, table=table, force=force)

    def _write_report(self, path: Path, numbers: Mapping[str, Any] | None) -> Path:
        from sim.inputs.errors import InputError
        from sim.results.whole_files import whole_file
        from sim.views.report import write_report

        if not path.parent.is_dir():
            raise InputError(f"there is no folder {path.parent}; make it, or name another file")
        with whole_file(path) as partial:
            write_report(cast("Run", self), self.title, self.scenario_text, partial, numbers)  # type: ignore[attr-defined]
        return path

    def _repr_html_(self) -> str:
        run = cast("Rows", self)
        return f"<h3>{escape(run.title)}</h3>\n{run.explain()._repr_html_()}{self.charts._small()}"


@contextmanager
def _extra(library: str) -> Iterator[None]:
    """InputError where an optional library is not installed."""
    from sim.inputs.errors import InputError

    try:
        yield
    except ImportError as error:
        raise InputError(f"{library} is not installed: pip install fabricsim[arrow] ({error})") from error


class RunCharts:
    """The charts of a run, by name; each is an altair chart that a notebook shows and `save_chart` writes."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __repr__(self) -> str:
        return f"<charts: {', '.join(f'{name}()' for name in CHARTS)}>"

    def latency(self) -> altair.HConcatChart:
        """The share of requests that had first token, next tokens and end within a time."""
        from sim.views.charts import latency_cdf

        return latency_cdf(self._run.requests)

    def load(self) -> altair.VConcatChart:
        """Requests waiting and running, and KV blocks in use, over time."""
        from sim.views.charts import load_over_time

        run = self._run
        return load_over_time(run.requests, run.kv_blocks, run.end_s, run.surroundings.setting.faults)

    def causes(self) -> altair.Chart:
        """Where the time of a request went."""
        from sim.views.charts import blame_bars

        return blame_bars(self._run.blame, self._run.requests)

    def requests(self) -> altair.Chart | altair.LayerChart:
        """Requests in time: queue, prefill, decode."""
        from sim.views.charts import request_timeline

        return request_timeline(self._run.requests, self._run.surroundings.setting.faults)

    def links(self) -> altair.Chart:
        """The busiest links."""
        from sim.views.charts import link_use

        return link_use(self._run.links, self._run.end_s)

    def _small(self) -> str:
        """Latencies and causes as one picture inside HTML; a line where it cannot be drawn."""
        import json

        import altair

        from sim.views.drawing import NotDrawnError, drawn
        from sim.views.files import specified

        if not self._run.blame.height:
            return ""
        both = altair.vconcat(self.latency(), self.causes()).resolve_scale(color="independent")
        try:
            return drawn("vegalite_to_svg", json.dumps(specified(both))).decode()
        except NotDrawnError as failure:
            return f"<p>{escape(str(failure))}</p>"


class Means(Protocol):
    """Several runs: a column for each number that was changed, then `seeds`, then those of the results."""

    def means(self) -> polars.DataFrame: ...


class ShownMeans:
    """Views of several runs, from the means over their seeds."""

    __slots__ = ()

    def chart(self: Means, x: str, y: str, theory: Theory | None = None) -> altair.LayerChart:
        """`y` against `x`, the mean over seeds with its 95 % interval, a line for each combination of the
        other changes; `theory`, a function of `x` or its values, is dashed beside them, and ends where it
        refuses (ValueError) or is infinite.
        `sim.views.files.save_chart` writes it. InputError for an `x` or `y` that the sweep does not have.
        """
        from sim.inputs.errors import InputError
        from sim.reading.problems import did_you_mean
        from sim.views.lines import lines_chart

        means = self.means()
        names = means.columns
        for name in (x, y):
            if name not in names:
                raise InputError(f"{name!r} is no column of this sweep{did_you_mean(name, names)}")
        others = [name for name in names[: names.index("seeds")] if name != x]
        return lines_chart(means.to_dicts(), x, y, others, theory)

    def report(self, path: str | Path) -> Path:
        """Write one page of the sweep: tokens/s of a GPU against those of a user, every metric with its
        intervals, tables. `sim.compare`, `sim.sensitivity` and `sim.recommend` have one too.
        """
        from sim.views.study_page import sweep_page

        return sweep_page(cast("studied.Sweep", self), Path(path))


class ShownComparison:
    """The page of a comparison."""

    __slots__ = ()

    def report(self, path: str | Path) -> Path:
        """Write one page: differences with their intervals, causes, metrics, tables."""
        from sim.views.study_page import compare_page

        return compare_page(cast("studied.Comparison", self), Path(path))


class ShownSensitivity:
    """The page of a sensitivity study."""

    __slots__ = ()

    def report(self, path: str | Path) -> Path:
        """Write one page: what each constant and knob would do, with its interval."""
        from sim.views.study_page import sensitivity_page

        return sensitivity_page(cast("studied.Sensitivity", self), Path(path))


class ShownRecommendation:
    """The page of a recommendation."""

    __slots__ = ()

    def report(self, path: str | Path) -> Path:
        """Write one page: the frontier with its recipes, and every layout."""
        from sim.views.study_page import recommend_page

        return recommend_page(cast("studied.Recommendation", self), Path(path))


CHARTS = ("latency", "load", "causes", "requests", "links")
