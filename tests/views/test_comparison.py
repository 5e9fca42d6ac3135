"""Published bars beside simulated ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.views import charts
from sim.views.comparison import comparison_chart
from tests.views.conftest import drawn


@pytest.mark.slow
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
