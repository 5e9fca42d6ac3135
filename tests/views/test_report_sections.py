"""What the parts of a report show is what the rows say."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

import sim
from sim.results.use_over_time import engines_over_time
from sim.views.cause_bars import LABELS
from sim.views.charts import CAUSE_COLOURS
from sim.views.report_run import Section, Shown
from sim.views.report_sections import script_data, sections
from tests.views.conftest import drawn
from tests.views.report_runs import everything

# Machado, Oliveira and Fernandes, IEEE TVCG 15 (2009), table 1: deuteranopia; linear RGB to linear RGB.
DEUTERANOPIA = (
    (0.367322, 0.860646, -0.227968),
    (0.280085, 0.672501, 0.047413),
    (-0.01182, 0.04294, 0.968881),
)
TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.072175),
    (0.0193339, 0.119192, 0.9503041),
)
WHITE = (0.95047, 1.0, 1.08883)  # D65
APART = 20.0  # units of CIELAB, as `CAUSE_COLOURS` says


@pytest.fixture(scope="module")
def shown() -> Shown:
    result = sim.simulate(everything())
    return Shown(result, result.summary())


@pytest.fixture(scope="module")
def parts(shown: Shown) -> dict[str, Section]:
    return {section.anchor: section for section in sections(shown.run, shown.numbers)}


def lab(colour: str) -> np.ndarray:
    """CIELAB of a colour as an eye without green receptors sees it."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.array(TO_XYZ) @ np.clip(np.array(DEUTERANOPIA) @ linear, 0.0, 1.0) / WHITE
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("order", [list(CAUSE_COLOURS), list(LABELS)])
def test_neighbours_in_a_stack_of_causes_differ_without_green_receptors(order: list[str]) -> None:
    distances = {
        (one, other): float(np.linalg.norm(lab(CAUSE_COLOURS[one]) - lab(CAUSE_COLOURS[other])))
        for one, other in pairwise(order)
    }
    assert min(distances.values()) >= APART, distances


@pytest.mark.slow
def test_engines_and_links_over_time_add_up_to_the_rows(shown: Shown) -> None:
    records, width_s = shown.records, shown.edges[1] - shown.edges[0]
    engines = engines_over_time(records, shown.surroundings.setting, shown.edges)
    steps = records.steps
    first = steps["stage"] == 0
    for kind in ("decode", "prefill"):
        name = "output" if kind == "decode" else "prompt"
        of_engines = sum(getattr(one, f"{name}_tokens_per_s").sum() * width_s for one in engines)
        assert of_engines == pytest.approx((steps[f"{kind}_tokens"] * steps["steps"])[first].sum())
    prefill, decode = engines
    # Each request is in one engine or between the two.
    assert max(decode.running) > max(prefill.running) > 0
    assert 0.0 < max(decode.kv_blocks) < decode.of_blocks
    assert decode.busy[(shown.edges[1:] > 0.52) & (shown.edges[1:] < 0.78)].max() == 0.0  # it is down
    for link, rate, total in zip(
        *(shown.links[name] for name in ("link", "bytes_per_s", "n_bytes")), strict=True
    ):
        assert (shown.link_use[link][0] * rate * width_s).sum() == pytest.approx(total), link
    kinds = {
        link: {shown.surroundings.traffic[number].kind for number in numbers}
        for link, (_, numbers) in shown.link_use.items()
    }
    assert kinds["node0.gpu0->nvlink0"] == {"steps", "hand-overs"}
    assert any("sends" in found for found in kinds.values())


@pytest.mark.slow
def test_every_part_is_there_with_names_and_words(shown: Shown, parts: dict[str, Section]) -> None:
    assert list(parts) == [
        "numbers", "causes", "latency", "time", "outages", "links", "stages", "machine", "caches", "requests",
    ]  # fmt: skip
    assert "reading GPU memory</b> kernels that wait for weights" in parts["causes"].html
    assert "within 20 ms" in parts["latency"].html
    assert "after the end of the run" in parts["time"].html
    assert 'role="tooltip">Requests whose last token' in parts["numbers"].html
    assert "decode 0, stage 1" in str(drawn(parts["stages"].charts["stages"]))
    assert "prefill 0 to decode 0" in parts["caches"].html
    assert "<td>host</td>" in parts["caches"].html
    bands = [row for row in drawn(parts["requests"].charts["requests"]) if "what" in row]
    assert {row["what"] for row in bands} == {"replica 1"}
    for part in ("ttft", "e2el"):
        bars = [row for row in drawn(parts["causes"].charts[f"causes-{part}"]) if row["group"] == "all"]
        mean_ms = sum(float(str(row["ms"])) for row in bars)
        assert mean_ms == pytest.approx(shown.numbers[f"mean_{part}_ms"], rel=1e-3)
    assert "</script" not in script_data(list(parts.values()))


@pytest.mark.slow
def test_the_slowest_requests_come_first_with_their_own_causes(
    shown: Shown, parts: dict[str, Section]
) -> None:
    rows = shown.run.requests
    latency_ms = dict(zip(rows["request_id"], ((rows["finished_s"] - rows["arrival_s"]) * 1e3), strict=True))
    told = parts["requests"].data["requests"]
    assert [one["id"] for one in told] == sorted(latency_ms, key=lambda i: (-latency_ms[i], i))
    assert sum(told[0]["ms"]) == pytest.approx(latency_ms[told[0]["id"]], rel=1e-3)
    buttons = re.findall(r'data-request="(\d+)"', parts["requests"].html)
    assert list(map(int, buttons)) == [one["id"] for one in told]
