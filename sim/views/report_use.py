"""Parts of the report about use: engines and links over time, links by kind, the map of the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from sim.results.setting import FaultSetting
from sim.results.use_over_time import EngineOverTime
from sim.views import report_charts as charts
from sim.views.machine_map import map_svg
from sim.views.report_charts import Line
from sim.views.report_run import Floats, Section, Shown, chart_html, swatches_html
from sim.views.table_html import shown, table

if TYPE_CHECKING:
    import altair

ENGINES = 8  # that a chart has lines for, as many as there are colours
LINKS_OF_A_KIND = 4
BY = {"pool": "by pool", "replica": "by engine"}


def over_time(of: Shown) -> Section | None:
    """Throughput, queue, running, KV blocks, GPUs and links over the time of the run, by pool or engine."""
    at_s = of.edges[1:]
    engines = of.engines
    if not engines or not of.run.requests.height:
        return None
    drawn: dict[str, altair.TopLevelMixin] = {}
    html: list[str] = []

    def add(
        key: str, title: str, unit: str, lines: Sequence[Line], *, share: bool = False, top: bool = True
    ) -> None:
        if not lines:
            html.append(f'<p class="small">{escape(title)}: none.</p>')
        else:
            drawn[key] = charts.over_time(title, unit, at_s, lines, of.faults, share=share, to_the_top=top)
            html.append(chart_html(key) + _key(lines))

    sums = (
        ("output_tokens_per_s", "Throughput of answers", "tokens/s"),
        ("prompt_tokens_per_s", "Throughput of prompts", "tokens/s"),
        ("waiting", "Requests waiting", "requests"),
        ("running", "Requests running", "requests"),
    )
    for name, title, unit in sums:
        add(f"time-{name}", title, unit, list(_lines(of, _sum(name))))
    title = "KV blocks in use, of those that there are"
    add("time-kv", title, "of the blocks", list(_lines(of, _blocks, _of_blocks)), share=True)
    add("time-gpu", "GPUs in steps", "of the time", list(_lines(of, _busy)), share=True)
    link_lines = list(_link_lines(of))
    add("time-links", "Links: bytes carried, of capacity", "of capacity", link_lines, share=True, top=False)
    chooser = ""
    if len(engines) > 1:
        options = "".join(f'<option value="{value}">{words}</option>' for value, words in BY.items())
        chooser = f'<p><label>Lines <select id="by">{options}</select></label></p>'
        if len(engines) > ENGINES:
            chooser += f'<p class="small">By engine: the {ENGINES} busiest of {len(engines)}.</p>'
    faults = ""
    if of.faults:
        named = "; ".join(_fault(fault, of.run.end_s) for fault in of.faults[:6])
        more = f" and {len(of.faults) - 6} more" if len(of.faults) > 6 else ""
        faults = f'<p><span class="swatch fault"></span>Faults: {escape(named + more)}.</p>'
    note = (
        '<p class="small">A point stands for a hundred-and-twentieth of the run. Of links the run counts the '
        "bytes of the whole; over time they are spread as the tokens of the steps that put them there, and "
        "KV caches as they went.</p>"
        if link_lines
        else ""
    )
    cells = "".join(f"<div>{one}</div>" for one in html)
    return Section(
        "time", "Over time", f'{chooser}{faults}<div class="two">{cells}</div>{note}', drawn,
    )  # fmt: skip


def _fault(fault: FaultSetting, end_s: float) -> str:
    if fault.at_s > end_s:
        return f"{fault.what} at {fault.at_s:.4g} s, after the end of the run"
    until = "to the end" if fault.until_s is None else f"until {fault.until_s:.4g} s"
    return f"{fault.what} from {fault.at_s:.4g} s {until}"


Engines = Sequence[EngineOverTime]


def _lines(
    of: Shown, values: Callable[[Engines], Floats | None], detail: Callable[[Engines], str] = lambda _: ""
) -> Iterator[Line]:
    """A line for each pool, from the values of its engines together, and one for each engine; none where they
    have no values.
    """
    for number, pool in enumerate(of.pools):
        engines = [engine for engine in of.engines if engine.replica in pool.replicas]
        found = values(engines)
        if found is not None:
            yield Line(of.pool_name(pool), "pool", found, detail(engines), number)
    if len(of.engines) > 1:
        for number, engine in enumerate(_busiest(of, ENGINES)):
            found = values([engine])
            if found is not None:
                yield Line(of.engine_name(engine.replica), "replica", found, detail([engine]), number)


def _busiest(of: Shown, most: int) -> list[EngineOverTime]:
    """The engines that were longest in steps, in order of their numbers."""
    longest = sorted(of.engines, key=lambda engine: (-float(engine.busy.sum()), engine.replica))[:most]
    return sorted(longest, key=lambda engine: engine.replica)


def _sum(name: str) -> Callable[[Engines], Floats | None]:
    def values(engines: Engines) -> Floats | None:
        found: Floats = np.sum([getattr(engine, name) for engine in engines], axis=0)
        return found if found.any() else None

    return values


def _busy(engines: Engines) -> Floats:
    found: Floats = np.mean([engine.busy for engine in engines], axis=0)
    return found


def _blocks(engines: Engines) -> Floats | None:
    total = sum(engine.of_blocks for engine in engines)
    return np.sum([engine.kv_blocks for engine in engines], axis=0) / total if total else None


def _of_blocks(engines: Engines) -> str:
    return f"of {sum(engine.of_blocks for engine in engines):,} blocks"


def _link_lines(of: Shown) -> Iterator[Line]:
    """Of each kind that joins two places, the mean of the links that a pool (an engine) uses."""
    kinds, traffic = of.surroundings.setting.link_kinds, of.surroundings.traffic
    by_kind: dict[str, dict[int, list[Floats]]] = {}
    for link, (shares, numbers) in of.link_use.items():
        if "->" in link:
            users = {traffic[n].replica for n in numbers} | {traffic[n].to for n in numbers} - {-1}
            for replica in users or {-1}:
                by_kind.setdefault(kinds.get(link, "links"), {}).setdefault(replica, []).append(shares)
    named: list[tuple[str, str, list[Floats]]] = []
    for kind, found in by_kind.items():
        for pool in of.pools:
            mine = [shares for replica in pool.replicas for shares in found.get(replica, ())]
            named.append((kind if len(of.pools) == 1 else f"{kind}, {pool.name}", "pool", mine))
        named.append((f"{kind}, other traffic (mean)", "pool", found.get(-1, [])))
    if len(of.engines) > 1:
        for kind, found in by_kind.items():
            for engine in _busiest(of, max(1, ENGINES // len(by_kind))):
                name = f"{kind}, {of.engine_name(engine.replica)}"
                named.append((name, "replica", found.get(engine.replica, [])))
    for by in BY:
        chosen = [(name, mine) for name, of_choice, mine in named if of_choice == by and mine]
        for number, (name, mine) in enumerate(chosen):
            yield Line(name, by, np.mean(mine, axis=0), f"mean of {len(mine)} links", number)


def _key(lines: Sequence[Line]) -> str:
    """The legend of lines over time; that of a choice is shown with it."""
    items = [
        f'<li data-by="{by}"{" hidden" if by != "pool" else ""}>'
        f'<span class="swatch" style="background:{colour}"></span>{escape(name)}</li>'
        for name, by, colour in charts.legend(lines)
    ]
    return f'<ul class="key">{"".join(items)}</ul>'


def links(of: Shown) -> Section | None:
    """Links by kind, the kinds that carried most of their capacity first: none hides behind another."""
    found = of.links
    if not len(found["link"]):
        return None
    end_s = of.run.end_s or 1.0
    kinds = of.surroundings.setting.link_kinds
    carried = found["n_bytes"] / (np.maximum(found["bytes_per_s"], 1e-300) * end_s)
    busy, shared = found["busy_s"] / end_s, found["shared_s"] / end_s
    of_kind: dict[str, list[int]] = {}
    for row, link in enumerate(found["link"].tolist()):
        of_kind.setdefault(kinds.get(link, "links"), []).append(row)
    order = sorted(of_kind, key=lambda kind: -max(float(carried[row]) for row in of_kind[kind]))
    rows, html = [], []
    drawn: dict[str, altair.TopLevelMixin] = {}
    for number, kind in enumerate(order):
        mine = sorted(of_kind[kind], key=lambda row: (-float(carried[row]), str(found["link"][row])))
        top = mine[0]
        rates = sorted({float(found["bytes_per_s"][row]) / 1e9 for row in mine})
        rate = f"{rates[0]:.4g}" if rates[0] == rates[-1] else f"{rates[0]:.4g} to {rates[-1]:.4g}"
        rows.append(
            [kind, f"{len(mine):,}", rate, shown(float(found["n_bytes"][mine].sum()) / 1e9),
             f"{carried[top]:.1%}", f"{carried[mine].mean():.1%}", f"{busy[mine].max():.1%}",
             f"{shared[mine].max():.1%}", str(found["link"][top])]
        )  # fmt: skip
        bars = [
            {"link": str(found["link"][row]), "what": what, "share": float(f"{min(1.0, share[row]):.5g}")}
            for row in mine[:LINKS_OF_A_KIND]
            for what, share in (
                ("carried, of capacity", carried),
                ("time in use", busy),
                ("time shared", shared),
            )
        ]
        title = f"{kind}: the busiest {min(len(mine), LINKS_OF_A_KIND)} of {len(mine)}"
        drawn[f"links-{number}"] = charts.links(bars, title)
        html.append(f"<div>{chart_html(f'links-{number}')}</div>")
    heads = (
        "kind", "links used", "GB/s", "GB carried", "busiest carried", "mean", "most in use", "most shared",
        "the busiest",
    )  # fmt: skip
    key = swatches_html(
        {
            "carried, of capacity": charts.LINES[0],
            "time in use": charts.LINES[4],
            "time shared": charts.LINES[1],
        }
    )
    return Section(
        "links", "Links by kind", f'{table(heads, rows)}{key}<div class="two">{"".join(html)}</div>', drawn
    )


def machine(of: Shown) -> Section | None:
    """The map of the machine, its links coloured by use at the time of a slider."""
    described = of.surroundings.machine
    on_map = dict.fromkeys(
        link for wire in described["wires"] for link in wire["links"] if link in of.link_use
    )
    if not described["boxes"] or not on_map:
        return None
    numbers = {link: number for number, link in enumerate(on_map)}
    kinds = of.surroundings.setting.link_kinds
    rates = dict(zip(of.links["link"].tolist(), of.links["bytes_per_s"].tolist(), strict=True))
    data = {
        "faults": [
            [fault.what, fault.at_s, of.run.end_s if fault.until_s is None else fault.until_s]
            for fault in of.faults
        ],
        "at": [float(f"{at:.5g}") for at in of.edges[1:].tolist()],
        "traffic": [_traffic(of, number) for number in range(len(of.surroundings.traffic))],
        "links": [
            {"name": link, "kind": kinds.get(link, "links"), "gb": float(f"{rates[link] / 1e9:.4g}"),
             "use": np.rint(of.link_use[link][0] * 1000).astype(int).tolist(),
             "who": list(of.link_use[link][1])}
            for link in on_map
        ],
    }  # fmt: skip
    last = len(of.edges) - 2
    html = (
        '<p><label for="when">At <output id="when-s"></output> s </label>'
        f'<input type="range" id="when" min="-1" max="{last}" value="-1" aria-label="Simulated time"></p>'
        '<p class="ramp">' + "".join(f'<span class="ramp{i}">{t}</span>' for i, t in enumerate(RAMP)) + "</p>"
        f'<div class="map">{map_svg(described, numbers)}</div>'
        '<p id="wire" aria-live="polite">Point at a line, or step to it with the Tab and arrow keys, to see '
        "what is on it. At the left end the slider shows the mean of the run.</p>"
    )
    return Section("machine", "The machine", html, data={"machine": data})


RAMP = ("under 1 %", "to 10 %", "to 30 %", "to 60 %", "to 90 %", "above")


def _traffic(of: Shown, number: int) -> str:
    one = of.surroundings.traffic[number]
    engine = of.engine_name(one.replica)
    pool = next(pool for pool in of.pools if one.replica in pool.replicas)
    stage = f" of stage {one.stage}" if pool.stages > 1 else ""
    if one.kind == "hand-overs":
        return f"KV caches from {engine} to {of.engine_name(one.to)}"
    if one.kind == "sends":
        return f"sends from stage {one.stage} to {one.stage + 1} of {engine}"
    return f"collectives{stage} of {engine}"
