"""A run shows itself in a notebook and a script, fresh or read back."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import sim
from sim.results.laws import little
from sim.results.over_time import over_time
from sim.simulate import Result
from sim.views import drawing, showing
from sim.views.saved import SavedResult, with_infinities
from tests.results.verdict_scenarios import described
from tests.views.conftest import drawn


@pytest.fixture(scope="module")
def saved(folder: Path) -> SavedResult:
    return sim.load_result(folder)


def test_a_run_read_back_reports_the_same_page(saved: SavedResult, folder: Path, tmp_path: Path) -> None:
    assert saved.report(tmp_path / "again.html").read_bytes() == (folder / "report.html").read_bytes()
    with pytest.raises(sim.InputError, match="there is no folder"):
        saved.report(tmp_path / "none" / "again.html")


def test_a_run_and_its_copy_say_the_same(saved: SavedResult, result: Result) -> None:
    assert str(saved.explain()) == str(result.explain())
    assert saved.explain().about("limit") == result.explain().about("limit")
    assert saved.title == result.title == "llama-3-8b on nd-h100-v5, 1 node(s)"
    assert saved.little() == result.little() == little(result.records)
    assert saved.over_time(0.1).equals(result.over_time(0.1))
    assert result.over_time(0.1).equals(over_time(result.records, 0.1))
    assert result.over_time().height == showing.ROWS
    assert result.over_time(0.1, replica=0).height == result.over_time(0.1).height


@pytest.mark.slow
def test_tokens_of_windowed_layers_are_read_back_too(tmp_path: Path) -> None:
    workload = {"arrivals": {"kind": "burst"}, "prompt_tokens": 300, "output_tokens": 4, "requests": 2}
    result = sim.simulate(
        described(model="gpt-oss-120b", engine={"tensor_parallel_size": 4}, workload=workload)
    )
    assert next(iter(result.records.kv_blocks.pools.values()))[2] > 1
    assert sim.load_result(result.save(tmp_path / "run")).over_time(0.01).equals(result.over_time(0.01))


@pytest.mark.parametrize("name", showing.CHARTS)
def test_every_chart_has_rows_and_is_the_same_of_a_copy(
    name: str, saved: SavedResult, result: Result
) -> None:
    chart = getattr(result.charts, name)()
    assert drawn(chart) == drawn(getattr(saved.charts, name)())
    assert drawn(chart)
    assert f"{name}()" in repr(result.charts)


def test_a_notebook_shows_title_verdict_and_a_picture(
    result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def picture(function: str, *arguments: object) -> bytes:
        asked.append(function)
        return b"<svg></svg>"

    monkeypatch.setattr(drawing, "drawn", picture)
    html = result._repr_html_()
    assert html.startswith(f"<h3>{result.title}</h3>\n<p>llama-3-8b on nd-h100-v5")
    assert html.endswith("<svg></svg>")
    assert asked == ["vegalite_to_svg"]

    def broken(function: str, *arguments: object) -> bytes:
        raise drawing.NotDrawnError("charts cannot be drawn: V8 ended")

    monkeypatch.setattr(drawing, "drawn", broken)
    assert result._repr_html_().endswith("<p>charts cannot be drawn: V8 ended</p>")


def test_percentiles_that_json_cannot_hold_come_back() -> None:
    numbers = {
        "p99_ttft_ms": None, "p50_ttft_ms": 3.0, "max_ttft_ms": None, "mean_tpot_ms": None,
        "p99_tpot_ms": None,
        "censored_ttft": 2, "censored_tpot": 0,
    }  # fmt: skip
    found = with_infinities({**numbers, "classes": {"a": numbers}})
    for one in (found, found["classes"]["a"]):
        assert (one["p99_ttft_ms"], one["max_ttft_ms"], one["p50_ttft_ms"]) == (math.inf, math.inf, 3.0)
        assert (one["mean_tpot_ms"], one["p99_tpot_ms"]) == (None, None)


def test_a_folder_of_an_older_version_has_no_verdict_and_says_so(saved: SavedResult) -> None:
    files = {name: digest for name, digest in saved.manifest["files"].items() if name != "verdict.json"}
    older = SavedResult(saved.folder, {**saved.manifest, "files": files})
    with pytest.raises(sim.InputError, match=r"has no verdict\.json: an older version left it"):
        older.explain()
