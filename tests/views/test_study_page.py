"""Pages of studies: the frontier, differences with their intervals, reasons, what is refused before a run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sim
from sim.cli import status_of
from sim.studies.intervals import Interval
from sim.studies.recommend import Candidate, FrontierPoint, Ranked, Recommendation
from sim.studies.sensitivity import Effect, Sensitivity
from sim.views import report_page
from tests.results.verdict_scenarios import described, poisson

SCENARIO = """
topology: nd-h100-v5
model: llama-3-8b
workload: {arrivals: {kind: poisson, rate_per_s: 50}, prompt_tokens: 100, output_tokens: 10, requests: 20}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(report_page, "vega", lambda: "")  # a browser draws them in test_in_a_browser.py
    (tmp_path / "one.yaml").write_text(SCENARIO)
    (tmp_path / "two.yaml").write_text(SCENARIO + "engine: {tensor_parallel_size: 2}\n")
    return tmp_path


@pytest.mark.slow
def test_a_sweep_and_a_comparison_have_pages_from_the_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, page = folder / "one.yaml", folder / "two.yaml", folder / "page.html"
    over = ["--over", "engine.tensor_parallel_size=1,2,3", "--seeds", "2"]
    assert status_of(["sweep", str(one), *over, "--report", str(folder / "page.txt")]) == 2
    assert "page.txt: must end in .html" in capsys.readouterr().err
    assert status_of(["sweep", str(one), *over, "--report", str(page)]) == 0
    assert f"wrote {page}" in capsys.readouterr().err
    sweep = page.read_text()
    assert re.search(r"<td>TP 1</td>.*on the frontier", sweep)
    assert "2 combinations with numbers, 2 seeds each" in sweep
    assert re.search(r"<td>TP 3</td><td>infeasible</td><td>tensor_parallel_size = ?3|does not divide", sweep)
    assert "±" in sweep
    assert status_of(["compare", str(one), str(two), "--seeds", "3", "--report", str(page)]) == 0
    compared = page.read_text()
    assert 'id="chart-difference-0"' in compared
    assert "mean end to end (ms): two &lt; one; stable, 3 of 3 seeds agree." in compared
    assert "start-up of collectives +" in compared
    assert re.findall(r'^await draw\("([^"]+)"', compared, re.MULTILINE) == re.findall(
        r'class="chart" id="chart-([a-z0-9_-]+)"', compared
    )


def test_a_sensitivity_and_a_recommendation_say_what_is_clear_and_what_cannot_be(folder: Path) -> None:
    clear, unclear = Interval(-0.5, -0.6, -0.4), Interval(0.1, float("-inf"), float("inf"))
    effects = (
        Effect("topology.gpus.h100-sxm.hbm_bytes_per_s", 3.35e12, 1.1, clear, clear, 3),
        Effect("engine.max_num_seqs", 256.0, 1.1, unclear, unclear, 1),
        Effect("engine.block_size", 16.0, 1.1, Interval(0.0, 0.0, 0.0), clear, 3, "no effect"),
    )
    study = Sensitivity("mean_tpot_ms", 12.0, effects, {"nodes": "no run has numbers"}, 0.0, ())
    page = study.report(folder / "sensitivity.html").read_text()
    assert "No effect: engine.block_size." in page
    assert re.search(r"engine.max_num_seqs</td>.*not clear over these seeds", page)
    assert "no run has numbers" in page
    ranked = tuple(
        Ranked(Candidate(name, ()), rate, rate / 8, 100)
        for name, rate in (("TP2, max_num_seqs 64", 8.0), ("TP4", 4.0))
    )
    points = (FrontierPoint("TP2, max_num_seqs 64", 8.0, 50.0, 400.0), FrontierPoint("TP4", 1.0, 90.0, 100.0))
    scenario = described(workload=poisson(1))
    found = Recommendation(ranked, points, "TP4 lacks half", {"TP3": "does not divide"}, 8, (), scenario)
    page = found.report(folder / "recommendation.html").read_text()
    assert "TP2, seats 64: 8 requests/s within the objectives, 1 a GPU, of 2 layouts on 8 GPUs." in page
    assert re.search(r"<td>TP4 at 1/s</td>.*on the frontier", page)
    assert "<td>TP3</td><td>cannot be</td><td>does not divide</td>" in page
    with pytest.raises(sim.InputError, match="there is no folder"):
        found.report(folder / "none" / "page.html")
