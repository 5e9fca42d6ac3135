"""What is drawn and written of a run is what its rows say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars
import pytest

import sim
from sim.inputs.errors import InputError
from sim.simulate import Result
from sim.views import charts
from sim.views.comparison import comparison_chart
from sim.views.files import specified
from sim.views.report import latency_rows, shown

SCENARIO = """
topology: nd-h100-v5
model: llama-3-8b
replicas: 2
engine: {tensor_parallel_size: 2}
workload: {arrivals: {kind: poisson, rate_per_s: 20}, prompt_tokens: 300, output_tokens: 20, requests: 30}
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    path = tmp_path_factory.mktemp("scenario") / "small.yaml"
    path.write_text(SCENARIO)
    return sim.simulate(sim.load_scenario(path))


@pytest.fixture(scope="module")
def folder(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return result.save(tmp_path_factory.mktemp("out") / "run")


def drawn(chart: object) -> list[dict[str, object]]:
    """The rows inside a chart."""
    specification = specified(chart)  # type: ignore[arg-type]
    return [row for values in specification["datasets"].values() for row in values]


def test_a_saved_run_has_all_its_files_and_its_scenario_runs_again_to_the_same_rows(
    folder: Path, result: Result
) -> None:
    names = {path.name for path in folder.iterdir()}
    tables = {f"{name}.csv" for name in ("requests", "steps", "gaps", "links", "gpus", "blame")}
    assert names == tables | {"summary.json", "trace.json", "report.html", "scenario.resolved.yaml"}
    again = sim.simulate(sim.load_scenario(folder / "scenario.resolved.yaml"))
    assert again.requests.equals(result.requests)
    read = polars.read_csv(folder / "requests.csv")
    assert read["finished_s"].to_list() == result.requests["finished_s"].to_list()


def test_a_folder_that_holds_files_is_not_overwritten_unless_forced(result: Result, folder: Path) -> None:
    with pytest.raises(InputError, match="already holds files"):
        result.save(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    result.save(folder, force=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, (
        "the same run, the same bytes"
    )


def test_the_report_needs_no_network(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    markup = re.sub(r"<script type=\"module\">.*</script>", "", page, flags=re.DOTALL)
    assert re.findall(r"\b(?:src|href)\s*=|@import|url\(", markup) == []
    assert page.count('class="chart"') == 5
    assert page.count("</script>") == 1
    assert page.count('vegaEmbed("#chart') == 5


def test_the_trace_closes_every_request_it_opens_and_its_steps_fill_the_busy_time(
    folder: Path, result: Result
) -> None:
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    begun = [(event["id"], event["name"]) for event in events if event["ph"] == "b"]
    ended = [(event["id"], event["name"]) for event in events if event["ph"] == "e"]
    assert sorted(begun) == sorted(ended)
    assert len({number for number, _ in begun}) == result.requests.height
    drawn_us = sum(event["dur"] for event in events if event["ph"] == "X")
    assert drawn_us == pytest.approx(float((result.steps["end_s"] - result.steps["start_s"]).sum()) * 1e6)
    last = [event for event in events if event["ph"] == "C" and event["name"] == "requests"][-1]
    assert last["args"] == {"waiting": 0, "running": 0}


def test_the_timeline_adds_up_to_each_requests_latency(result: Result) -> None:
    spans = polars.DataFrame(drawn(charts.request_timeline(result.requests)))
    seconds = spans.group_by("request").agg((polars.col("end") - polars.col("begin")).sum()).sort("request")
    latency = (
        result.requests.sort("request_id")["finished_s"] - result.requests.sort("request_id")["arrival_s"]
    )
    assert np.allclose(seconds["end"].to_numpy(), latency.to_numpy())


def test_the_stack_of_causes_is_as_long_as_the_mean_latency(result: Result) -> None:
    bars = polars.DataFrame(drawn(charts.blame_bars(result.blame, result.requests)))
    stack = bars.filter(polars.col("group").str.starts_with("all"))["seconds"].sum()
    latency = (result.requests["finished_s"] - result.requests["arrival_s"]).to_numpy().mean()
    assert stack == pytest.approx(latency, rel=1e-4)


def test_links_are_never_shown_fuller_than_full(result: Result) -> None:
    bars = polars.DataFrame(drawn(charts.link_use(result.links, result.end_s)))
    assert bars["share"].to_numpy().max() <= 1.0 + 1e-9
    assert bars.height > 0


def test_a_request_that_never_finished_keeps_the_curve_below_one() -> None:
    requests = polars.DataFrame({
        "arrival_s": [0.0, 1.0], "first_token_s": [0.5, None], "finished_s": [2.0, None],
        "generated_tokens": [4, 0], "status": ["finished", "unfinished"],
    })  # fmt: skip
    shares = [row["share"] for row in drawn(charts.latency_cdf(requests))]
    assert max(shares) == 0.5


def test_published_bars_stand_beside_simulated_ones_with_the_error_written_out(tmp_path: Path) -> None:
    names = ("case", "quantity", "unit", "published", "simulated", "kind")
    numbers = [
        dict(zip(names, row, strict=True))
        for row in (
            ("A", "throughput", "tokens/s", 100.0, 95.0, "predicted"),
            ("B", "throughput", "tokens/s", None, 50.0, "predicted"),
            ("A", "latency", "ms", 10.0, 10.0, "fitted"),
        )
    ]
    labels = [row["label"] for row in drawn(comparison_chart(numbers, "title"))]
    assert labels == ["100", "95  (-5.0%)", "50", "10", "10  (+0.0%)"]
    path = charts.published_and_simulated(numbers, "title", tmp_path / "chart.svg")
    assert path.read_text().startswith("<svg")


@pytest.mark.parametrize(("value", "text"), [
    (None, ""), (True, "yes"), (12345, "12,345"), (0.123456, "0.1235"), (12345.6, "12,346"),
    (float("inf"), "inf"),
])  # fmt: skip
def test_numbers_are_shown_with_four_digits_that_say_something(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_spread_of_rounding_is_shown_as_zero() -> None:
    rows = latency_rows({"mean_ttft_ms": 10.0, "std_ttft_ms": 1e-12})
    assert rows[0][1:] == ["10", "", "", "", "", "0"]
