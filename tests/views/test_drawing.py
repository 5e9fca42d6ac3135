"""Where V8 cannot run, only the picture is lost."""

from __future__ import annotations

from pathlib import Path

import altair
import pytest

import sim
from sim.scenario import Scenario
from sim.views import drawing, files
from sim.views.drawing import NotDrawnError, drawn

ABORTS = "import os, signal; os.kill(os.getpid(), signal.SIGABRT)"


@pytest.fixture
def aborts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "DRAW", ABORTS)
    files.vega.cache_clear()


@pytest.mark.usefixtures("aborts")
def test_a_picture_that_cannot_be_drawn_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    chart = altair.Chart(files.rows([{"x": 1}])).mark_point().encode(x="x:Q")
    with pytest.raises(NotDrawnError, match=r"ended with SIGABRT; .* raise `ulimit -v`"):
        files.save_chart(chart, tmp_path / "chart.svg")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("aborts")
def test_a_run_is_saved_whole_but_for_the_charts_of_its_report(tmp_path: Path) -> None:
    described = {"topology": "nd-h100-v5", "model": "llama-3-8b", "workload": "single-user"}
    result = sim.simulate(Scenario.model_validate(described))
    result.save(tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "charts cannot be drawn" in page
    assert "vegaEmbed" not in page
    assert sim.load_result(tmp_path / "out").requests.equals(result.requests)


def test_an_error_in_a_drawing_is_a_bug_with_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "DRAW", "raise ValueError('no such mark')")
    with pytest.raises(RuntimeError, match=r"vl_convert\.vega_to_svg: ValueError: no such mark"):
        drawn("vega_to_svg", "{}")
