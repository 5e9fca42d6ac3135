"""A run as its report asks about it, and the pieces of HTML that its parts are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sim.results.records import Records
from sim.results.setting import FaultSetting, PoolSetting, Surroundings
from sim.results.use_over_time import EngineOverTime, edges_of, engines_over_time, links_over_time

if TYPE_CHECKING:
    import altair

    from sim.views.report import Run

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Section:
    """One part of the page: HTML with a `<div class="chart" id=...>` for each of its charts."""

    anchor: str
    heading: str
    html: str
    charts: Mapping[str, altair.TopLevelMixin] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """A run as its report asks about it."""

    run: Run
    numbers: Mapping[str, Any]

    @cached_property
    def records(self) -> Records:
        return self.run.records.sorted_copy()

    @cached_property
    def surroundings(self) -> Surroundings:
        return self.run.surroundings

    @property
    def pools(self) -> tuple[PoolSetting, ...]:
        return self.surroundings.setting.pools

    @property
    def faults(self) -> tuple[FaultSetting, ...]:
        return self.surroundings.setting.faults

    @cached_property
    def edges(self) -> Floats:
        return edges_of(self.run.end_s)

    @cached_property
    def engines(self) -> tuple[EngineOverTime, ...]:
        return engines_over_time(self.records, self.surroundings.setting, self.edges)

    @cached_property
    def links(self) -> dict[str, NDArray[Any]]:
        """Columns of the links that carried anything."""
        import polars

        used = self.run.links.filter(polars.col("n_bytes") > 0)
        return {name: used[name].to_numpy() for name in used.columns}

    @cached_property
    def link_use(self) -> dict[str, tuple[Floats, tuple[int, ...]]]:
        return links_over_time(self.records, self.surroundings, self.links, self.edges)

    def engine_name(self, replica: int) -> str:
        """An engine by its pool: `decode 2`, counted in the pool; `engine 2` without pools."""
        pool = next((pool for pool in self.pools if replica in pool.replicas), None)
        if pool is None or not pool.name or len(self.pools) == 1:
            return f"engine {replica}"
        return f"{pool.name} {replica - pool.first}"

    def pool_name(self, pool: PoolSetting) -> str:
        return pool.name if pool.name and len(self.pools) > 1 else "all engines"


def chart_html(key: str) -> str:
    return f'<div class="chart" id="chart-{key}"></div>'


def cell_html(html: str) -> str:
    return f"<td{' class=number' if html[:1].isdigit() else ''}>{html}</td>"


def details_html(summary: str, html: str, *, open_: bool = False) -> str:
    return f"<details{' open' if open_ else ''}><summary>{escape(summary)}</summary>{html}</details>"


def swatches_html(colours: Mapping[str, str], words: Mapping[str, str] | None = None) -> str:
    items = [
        f'<li><span class="swatch" style="background:{colour}"></span>'
        + (f"<b>{escape(name)}</b> {escape(words[name])}" if words else escape(name))
        + "</li>"
        for name, colour in colours.items()
    ]
    return f'<ul class="{"legend" if words else "key"}">{"".join(items)}</ul>'
