"""The parts of the report in the order of the page, and what its script reads of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sim.views.report_engines import caches, stages
from sim.views.report_latency import headline, latencies, slowest, where_the_time_went
from sim.views.report_outages import outages
from sim.views.report_run import Section, Shown
from sim.views.report_use import links, machine, over_time

if TYPE_CHECKING:
    from sim.views.report import Run


def sections(run: Run, numbers: Mapping[str, Any]) -> list[Section]:
    """All parts that the run has something for, in the order of the page."""
    of = Shown(run, numbers)
    parts: tuple[Callable[[Shown], Section | None], ...] = (
        headline, where_the_time_went, latencies, over_time, outages, links, stages, machine, caches, slowest,
    )  # fmt: skip
    return [section for part in parts if (section := part(of)) is not None]


def script_data(found: Sequence[Section]) -> str:
    """What the script of the page reads, as JSON that may stand inside of a script."""
    together = {key: value for section in found for key, value in section.data.items()}
    return json.dumps(together, separators=(",", ":")).replace("<", "\\u003c")
