"""Does reloading a KV cache beat computing it again? Long contexts, by the bandwidth of what keeps them.

The KV of a token of Llama-70B is 328 kB; to compute it takes 141 GFLOP, and more the longer the context. So
there is a bandwidth from which on loading is quicker: for eight H100 about 11 GB/s for the whole engine by
arithmetic. Every tier is above it, and by how much differs tenfold.

Three parts: a document of 32,768 tokens that comes up again, from every kind of tier, beside computing it and
finding it in HBM; conversations that come back under load, with different tiers below HBM; and the first 300
requests of Mooncake's conversation trace. Nothing is fitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import sim
from sim.cost.kv_tiers import break_even_bytes_per_s
from sim.views.answer import Answer, Row, tell
from sim.views.files import save_chart

DOCUMENTS = Path(__file__).with_name("long_documents.yaml")
SESSIONS = Path(__file__).with_name("returning_sessions.yaml")
DOCUMENT, SHORT = 32_768, 4_096
NIC = "49 GB/s"  # what a port of 400 Gbit/s carries, at 98 %
TB = 1e12

# For the estimates by hand: a token of Llama-70B goes through 70.55e9 parameters and attends to half of its
# document on average; the share of the tensor cores' peak that a prefill keeps.
PARAMETERS, LAYERS, HEADS, HEAD_DIM, KV_BYTES = 70.55e9, 80, 64, 128, 327_680
SHARE_OF_PEAK = 0.6
PEAK = {"nd-h100-v5": 989e12, "dgx-a100": 312e12, "gb200-nvl72": 2500e12}
ESTIMATE_WITHIN = 1.75


@dataclass(frozen=True)
class Place:
    """Where a document lies: a system, GPUs of the engine, tiers, and GB/s by hand (links x payload)."""

    case: str
    topology: str
    gpus: int
    tiers: dict[str, Any]
    gb_per_s: float
    nodes: int = 1


PLACES = (
    Place("remote store, one NIC of 400G", "nd-h100-v5", 8,
          {"remote": {"capacity_bytes": TB, "place": "node1", "read_bytes_per_s": NIC}}, 49.0, 2),
    Place("eight NVMe drives", "nd-h100-v5", 8, {"nvme": {"capacity_bytes": TB}}, 8 * 6.8),
    Place("host memory, PCIe 4", "dgx-a100", 8, {"host": {"capacity_bytes": TB}}, 4 * 26.0),
    Place("remote store, eight NICs of 400G", "nd-h100-v5", 8,
          {"remote": {"capacity_bytes": TB, "place": "node1"}}, 8 * 49.0, 2),
    Place("host memory, PCIe 5", "nd-h100-v5", 8, {"host": {"capacity_bytes": TB}}, 8 * 55.0),
    Place("host memory, C2C", "gb200-nvl72", 4, {"host": {"capacity_bytes": TB}}, 2 * 405.0),
)  # fmt: skip
SWEPT_GB_PER_S = (2, 4, 6, 8, 12, 20, 50, 100, 200, 400)

HOST_100GB = {"host": {"capacity_bytes": 0.1 * TB}}


def store(bytes_per_s: float | str) -> dict[str, Any]:
    """A remote store in the memory of the second server, read at up to `bytes_per_s`."""
    return {"remote": {"capacity_bytes": 4 * TB, "place": "node1", "read_bytes_per_s": bytes_per_s}}


UNDER_LOAD: dict[str, tuple[dict[str, Any] | None, str]] = {
    "HBM alone": (None, "cost"),
    "store at 3 GB/s, by cost": (store(3e9), "cost"),
    "store at 2 GB/s, always": (store(2e9), "always"),
    "remote, one NIC of 400G": (store(NIC), "cost"),
    "host of 100 GB, written through": (HOST_100GB, "cost"),
    "host of 100 GB, on eviction": ({**HOST_100GB, "write": "on_eviction"}, "cost"),
    "the same, and NVMe": (
        {**HOST_100GB, "write": "on_eviction", "nvme": {"capacity_bytes": 4 * TB}},
        "cost",
    ),
    "host memory of 1 TB": ({"host": {"capacity_bytes": TB}}, "cost"),
}

NOTES = (
    "Drives, NICs and PCIe are taken at the rate of large copies; engines that copy block by block get less.",
    (
        "'By cost' weighs a request's own wait alone. Computing also delays those who share its steps, so a "
        "tier a little below break-even can still serve the others better."
    ),
    (
        "A tier that is written through and no larger than HBM holds what HBM holds. Written on eviction it "
        "adds to it."
    ),
    "Of Mooncake's first 300 requests 8 % of the prompts have been seen before: no tier can give more.",
)


def answer(quick: bool) -> Answer:
    """Does reloading a KV cache beat computing it again? Long contexts, by tier."""
    found = [document(place) for place in PLACES]
    curve = swept()
    loaded = [under_load(label, *how, quick) for label, how in UNDER_LOAD.items()]
    rows = [
        *(row for one in found for row in document_rows(one)),
        *break_even_rows(found, curve),
        *(row for one in loaded for row in load_rows(one)),
        *mooncake_rows(),
    ]
    none, host = loaded[0], loaded[-1]
    slowest, h100 = found[0], break_even(found[0])
    takeaway = (
        f"Yes, from every usual tier: on eight H100 it pays from {h100 / 1e9:.0f} GB/s for the whole engine, "
        f"and one 400G NIC has {slowest['bytes_per_s'] / 1e9:.0f}. A document of {DOCUMENT:,} tokens shows "
        f"its first token after {slowest['reload_s']:.2f} s from there and {found[4]['reload_s']:.2f} s from "
        f"host memory, against {slowest['compute_s']:.1f} s. Under load, host memory takes the mean first "
        f"token from {none['ttft_ms']:,.0f} to {host['ttft_ms']:,.0f} ms; a store at 2 GB/s that is always "
        f"read makes it {loaded[2]['ttft_ms']:,.0f}."
    )

    def charts(folder: Path) -> list[Path]:
        return [save_chart(picture(found, curve, loaded), folder / "does_kv_reload_beat_recompute.png")]

    return Answer("Does reloading a KV cache beat computing it again?", tuple(rows), takeaway, NOTES, charts)


# ---- a document that comes up again


def document(place: Place) -> dict[str, Any]:
    """First tokens of the requests whose document lies in the tier: reloaded, computed, and found in HBM."""
    scenario = sim.with_changes(
        sim.load_scenario(DOCUMENTS).model_copy(
            update={"topology": sim.load_topology(place.topology, nodes=place.nodes)}
        ),
        {"engine.tensor_parallel_size": place.gpus, "engine.kv_tiers": place.tiers},
    )
    return {"place": place, **measured(scenario)}


def measured(scenario: sim.Scenario) -> dict[str, float]:
    reload_s, whole, transfer_s = reloaded(scenario)
    computed = sim.simulate(sim.with_changes(scenario, {"kv_reload": "never"}))
    ample = {"engine.num_gpu_blocks_override": 10_000, "engine.kv_tiers": None}
    held = sim.simulate(sim.with_changes(scenario, ample))
    return {
        "reload_s": reload_s,
        "compute_s": ttft_s(computed, whole),
        "held_s": ttft_s(held, whole),
        "bytes_per_s": DOCUMENT * KV_BYTES / transfer_s,
    }


def reloaded(scenario: sim.Scenario) -> tuple[float, Any, float]:
    """First token of the requests that reload a whole document, which those are, and what a reload takes."""
    result = sim.simulate(scenario)
    waited_s = result.blame["hand_over"].to_numpy()
    whole = waited_s > 0.999 * waited_s.max()
    return ttft_s(result, whole), whole, float(waited_s.max())


def ttft_s(result: sim.Result, which: Any) -> float:
    waited = (result.requests["first_token_s"] - result.requests["arrival_s"]).to_numpy()
    return float(waited[which].mean())


def swept() -> list[dict[str, float]]:
    """First tokens on eight H100 with the tier held to one bandwidth after another."""
    base = sim.load_scenario(DOCUMENTS)
    points = []
    for gb_per_s in SWEPT_GB_PER_S:
        tier = {"host": {"capacity_bytes": TB, "read_bytes_per_s": 1e9 * gb_per_s}}
        reload_s, _, _ = reloaded(sim.with_changes(base, {"engine.kv_tiers": tier}))
        points.append({"gb_per_s": float(gb_per_s), "reload_s": reload_s})
    return points


def break_even(found: dict[str, Any], tokens: int = DOCUMENT) -> float:
    """Bytes/s from which on reloading is quicker, by what computing costs above finding it in HBM."""
    return tokens * KV_BYTES / (found["compute_s"] - found["held_s"])


def crossing(curve: Sequence[dict[str, float]], compute_s: float) -> float:
    """Bytes/s at which the reloaded first token comes as late as the computed one, between two points."""
    for slow, fast in pairwise(curve):
        above, below = slow["reload_s"] - compute_s, fast["reload_s"] - compute_s
        if above >= 0.0 > below:  # the wait is linear in the inverse of the bandwidth
            part = above / (above - below)
            return 1e9 / ((1.0 - part) / slow["gb_per_s"] + part / fast["gb_per_s"])
    raise ValueError("the curve does not cross")


def by_hand(place: Place) -> tuple[float, float]:
    """Seconds to compute a document, and the break-even bandwidth: FLOPs over a share of the peak."""
    flops_per_token = 2.0 * PARAMETERS + 2.0 * LAYERS * HEADS * HEAD_DIM * DOCUMENT
    rate = place.gpus * PEAK[place.topology] * SHARE_OF_PEAK
    return DOCUMENT * flops_per_token / rate, break_even_bytes_per_s(KV_BYTES, flops_per_token, rate)


def document_rows(found: dict[str, Any]) -> Iterable[Row]:
    place = found["place"]
    compute_s, _ = by_hand(place)
    case = f"{place.case} ({place.gpus} GPUs, {place.topology})"
    reload_s = DOCUMENT * KV_BYTES / place.gb_per_s / 1e9
    gb_per_s = found["bytes_per_s"] / 1e9
    yield Row(case, "bandwidth of a reload", "GB/s", None, gb_per_s, estimate=place.gb_per_s)
    yield Row(
        case, "first token, reloaded", "s", None, found["reload_s"], estimate=reload_s + found["held_s"]
    )
    yield Row(case, "first token, computed again", "s", None, found["compute_s"], estimate=compute_s)
    yield Row(case, "computing over reloading", "x", None, found["compute_s"] / found["reload_s"])


def break_even_rows(found: Sequence[dict[str, Any]], curve: Sequence[dict[str, float]]) -> Iterable[Row]:
    for one in {one["place"].topology: one for one in found}.values():
        place = one["place"]
        case = f"break-even for {DOCUMENT:,} tokens, {place.gpus} GPUs of {place.topology}"
        closed = by_hand(place)[1] / 1e9
        yield Row(case, "by its prefill and its bytes", "GB/s", None, break_even(one) / 1e9, estimate=closed)
    short = {"workload.prefix.tokens": SHORT, "engine.num_gpu_blocks_override": 330}
    in_short = break_even(measured(sim.with_changes(sim.load_scenario(DOCUMENTS), short)), SHORT) / 1e9
    weights = break_even_bytes_per_s(KV_BYTES, 2.0 * PARAMETERS, 8 * PEAK["nd-h100-v5"] * SHARE_OF_PEAK) / 1e9
    case = f"break-even for {SHORT:,} tokens, 8 GPUs of nd-h100-v5, by hand without attention"
    yield Row(case, "by its prefill and its bytes", "GB/s", None, in_short, estimate=weights)
    h100 = next(one for one in found if one["place"].topology == "nd-h100-v5")
    case = "break-even, where the curve of eight H100 crosses"
    crossed = crossing(curve, h100["compute_s"]) / 1e9
    yield Row(case, "bandwidth", "GB/s", None, crossed, estimate=break_even(h100) / 1e9)


# ---- conversations that come back


def under_load(label: str, tiers: dict[str, Any] | None, reload: str, quick: bool) -> dict[str, Any]:
    changes: dict[str, Any] = {"engine.kv_tiers": tiers, "kv_reload": reload}
    if quick:
        changes["workload.requests"] = 120
        changes["engine.num_gpu_blocks_override"] = (
            12_000  # fewer sessions are open at once: less HBM for them
        )
    result = sim.simulate(sim.with_changes(sim.load_scenario(SESSIONS), changes))
    summary = result.summary()
    cached = result.requests["cached_tokens"].sum() / result.requests["prompt_tokens"].sum()
    rates = {name[12:]: rate for name, rate in summary.items() if name.startswith("kv_hit_rate_")}
    return {
        "label": label,
        "ttft_ms": summary["mean_ttft_ms"],
        "p99_ttft_ms": summary["p99_ttft_ms"],
        "itl_ms": summary["mean_itl_ms"],
        "rates": rates or {"hbm": cached},
        "reloaded_gb": summary.get("kv_reloaded_bytes", 0.0) / 1e9,
        "stored_gb": summary.get("kv_stored_bytes", 0.0) / 1e9,
    }


def load_rows(one: dict[str, Any]) -> Iterable[Row]:
    case = f"conversations: {one['label']}"
    yield Row(case, "mean time to first token", "ms", None, one["ttft_ms"])
    yield Row(case, "p99 time to first token", "ms", None, one["p99_ttft_ms"])
    yield Row(case, "mean time between tokens", "ms", None, one["itl_ms"])
    for tier, rate in one["rates"].items():
        yield Row(case, f"prompt tokens found in {tier}", "%", None, 100 * rate)
    if one["stored_gb"]:
        yield Row(case, "reloaded", "GB", None, one["reloaded_gb"])
        yield Row(case, "offloaded", "GB", None, one["stored_gb"])


def mooncake_rows() -> Iterable[Row]:
    """The shipped sample of the trace, at a seventh of its pace: one engine serves what a cluster did."""
    arrivals = {"kind": "trace", "name": "mooncake-conversation", "speedup": 0.15}
    base = sim.load_scenario(SESSIONS).model_copy(update={"workload": sim.Workload(arrivals=arrivals)})
    for label in ("HBM alone", "host memory of 1 TB"):
        tiers, reload = UNDER_LOAD[label]
        changes = {"engine.kv_tiers": tiers, "kv_reload": reload, "engine.num_gpu_blocks_override": 12_000}
        result = sim.simulate(sim.with_changes(base, changes))
        cached = result.requests["cached_tokens"].sum() / result.requests["prompt_tokens"].sum()
        case = f"Mooncake's conversations: {label}"
        yield Row(case, "prompt tokens not computed", "%", None, 100 * cached)
        yield Row(case, "mean time to first token", "ms", None, result.summary()["mean_ttft_ms"])


# ---- the picture


def picture(
    found: Sequence[dict[str, Any]], curve: Sequence[dict[str, float]], loaded: Sequence[dict[str, Any]]
) -> Any:
    """Above: first token by bandwidth, tiers as points. Below: first token of conversations by tier."""
    import altair as alt

    return (
        alt.vconcat(document_chart(found, curve), load_chart(loaded), spacing=34)
        .properties(
            title=alt.Title(
                "Loading a KV cache beats computing it again, from every usual tier",
                anchor="start",
                fontSize=18,
                offset=14,
            ),
            padding=16,
            background="white",
        )
        .configure_view(stroke=None)
        .configure_axis(labelFontSize=12, titleFontSize=13, gridColor="#e6e6e6")
    )


def document_chart(found: Sequence[dict[str, Any]], curve: Sequence[dict[str, float]]) -> Any:
    import altair as alt

    h100 = next(one for one in found if one["place"].topology == "nd-h100-v5")
    at = crossing(curve, h100["compute_s"]) / 1e9
    x = alt.X(
        "gb_per_s:Q",
        title="bandwidth of the tier for one engine, GB/s",
        scale=alt.Scale(type="log", domain=[2, 2000]),
        axis=alt.Axis(values=[2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000], grid=False),
    )
    y = alt.Y(
        "seconds:Q",
        title="first token after, s",
        scale=alt.Scale(type="log", domain=[0.03, 6]),
        axis=alt.Axis(values=[0.05, 0.1, 0.2, 0.5, 1, 2, 5]),
    )

    def text(values: dict[str, Any], colour: str, **how: Any) -> Any:
        shown = alt.Chart(_values([values])).mark_text(fontSize=12, color=colour, lineBreak="\n", **how)
        return shown.encode(x=x, y=y, text="label:N")

    def level(seconds: float, label: str, colour: str, dy: int) -> list[Any]:
        values = {"gb_per_s": 2000, "seconds": seconds, "label": label}
        rule = alt.Chart(_values([values])).mark_rule(color=colour, strokeWidth=2, strokeDash=[6, 4])
        return [rule.encode(y=y), text(values, colour, align="right", dy=dy)]

    line = alt.Chart(_values([{"gb_per_s": p["gb_per_s"], "seconds": p["reload_s"]} for p in curve]))
    crossed = {"gb_per_s": at, "seconds": 0.034, "label": f"break-even {at:.1f} GB/s"}
    layers = [
        line.mark_line(color=H100, strokeWidth=2.5).encode(x=x, y=y),
        *level(h100["compute_s"], "computed again, eight H100", "#d62728", -8),
        *level(h100["held_s"], "found in HBM, eight H100", "#2ca02c", 14),
        alt.Chart(_values([crossed])).mark_rule(color="#555", strokeDash=[2, 3]).encode(x=x),
        text(crossed, "#333", align="left", dx=6),
    ]
    for one in found:
        place = one["place"]
        colour, gpus = (H100, "") if place.topology == "nd-h100-v5" else OTHERS[place.topology]
        point = {
            "gb_per_s": one["bytes_per_s"] / 1e9,
            "seconds": one["reload_s"],
            "label": place.case.replace(", ", ",\n") + gpus,
        }
        dot = alt.Chart(_values([point])).mark_point(size=70, filled=True, opacity=1, color=colour)
        layers += [dot.encode(x=x, y=y), text(point, colour, **LABELS[place.case])]
    return alt.layer(*layers).properties(
        width=760,
        height=350,
        title=_title(
            f"A document of {DOCUMENT:,} tokens that comes up again",
            "Llama-3.1-70B in bf16; curve: eight H100, the tier held to a bandwidth; points: tiers as built",
        ),
    )


H100 = "#1f77b4"
OTHERS = {"dgx-a100": ("#9467bd", " (8 A100)"), "gb200-nvl72": ("#9467bd", " (4 GB200)")}
LABELS: dict[str, dict[str, Any]] = {
    "remote store, one NIC of 400G": {"align": "right", "dx": -9, "dy": 4},
    "eight NVMe drives": {"align": "left", "dx": 8, "dy": -8},
    "host memory, PCIe 4": {"align": "left", "dx": 9, "dy": -4},
    "remote store, eight NICs of 400G": {"align": "right", "dx": -9, "dy": 4},
    "host memory, PCIe 5": {"align": "left", "dx": 3, "dy": -32},
    "host memory, C2C": {"align": "left", "dx": 9, "dy": -6},
}


def load_chart(loaded: Sequence[dict[str, Any]]) -> Any:
    import altair as alt

    values = [{"label": one["label"], "ms": one["ttft_ms"], "text": _bar_text(one)} for one in loaded]
    bars = alt.Chart(_values(values)).encode(
        y=alt.Y(
            "label:N",
            sort=[one["label"] for one in loaded],
            title=None,
            axis=alt.Axis(labelFontSize=12, labelLimit=300, domain=False, ticks=False, labelPadding=6),
        )
    )
    longest = max(one["ttft_ms"] for one in loaded)
    x = alt.X(
        "ms:Q",
        title="mean time to first token, ms",
        scale=alt.Scale(domain=[0, 1.6 * longest], nice=False),
        axis=alt.Axis(tickCount=6),
    )
    return alt.layer(
        bars.mark_bar(height=20, color=H100).encode(x=x),
        bars.mark_text(align="left", dx=6, fontSize=12).encode(x=x, text="text:N"),
    ).properties(
        width=760,
        height=alt.Step(32),
        title=_title(
            "Conversations that come back after a minute",
            "four H100, by what is below HBM; in words: prompt tokens that were not computed, and from where",
        ),
    )


def _bar_text(one: dict[str, Any]) -> str:
    below = sum(rate for tier, rate in one["rates"].items() if tier != "hbm")
    hbm = one["rates"]["hbm"]
    return f"{one['ttft_ms']:,.0f} ms: {100 * hbm:.0f} % from HBM, {100 * below:.0f} % from below"


def _title(text: str, subtitle: str) -> Any:
    import altair as alt

    return alt.Title(text, subtitle=subtitle, anchor="start", fontSize=15, subtitleFontSize=12, offset=8)


def _values(values: list[dict[str, Any]]) -> Any:
    from sim.views.files import rows

    return rows(values)


if __name__ == "__main__":
    tell(answer)
