"""Pictures of a ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.results.compared import Row
from sim.validation.charts import error_by_size, save_charts, save_page_charts
from sim.views.files import specified


def row(published: float | None, simulated: float, size: float = 8.0, section: str = "kernels") -> Row:
    return Row("a case", "time", "ms", published, simulated, source="a source", section=section, size=size)


@pytest.mark.slow
def test_charts_are_drawn_of_sections_with_something_to_draw(tmp_path: Path) -> None:
    rows = [row(10.0 * i, 11.0 * i, size=float(i)) for i in range(1, 5)]
    written = {path.name for path in save_charts(rows, tmp_path)}
    assert written == {"kernels_against_measured.png", "kernels_error_by_size.png"}
    assert save_charts(rows[:1], tmp_path) == []


def test_errors_beyond_all_of_the_measured_stand_at_the_edge() -> None:
    chart = specified(error_by_size([row(10.0, 35.0), row(10.0, 5.0)], "kernels"))
    (drawn,) = chart["datasets"].values()
    assert [point["y"] for point in drawn] == [100.0, -50.0]


@pytest.mark.slow
def test_the_page_shows_the_sections_of_whole_services_beside_it(tmp_path: Path) -> None:
    rows = [row(10.0 * i, 11.0 * i, section=name) for i in range(1, 4) for name in ("kernels", "pools")]
    save_page_charts(rows, tmp_path / "accuracy.md")
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["pools.png"]
