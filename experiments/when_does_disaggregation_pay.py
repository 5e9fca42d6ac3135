"""When does it pay to prefill and decode on different GPUs? The same requests, served in one place and apart.

Four engines, three ways: all of them prefill whole prompts before they decode on; all of them mix chunks of
prompts into their decode steps; or some only prefill and some only decode, and KV caches go from one to the
other over NICs, layer by layer behind the prefill. Each way is asked how many requests a second it serves
when nine in ten must get their first token and all further ones in time. Asked again with slower NICs, with
long prompts and with long answers, for Llama-3-70B on H100 and for DeepSeek-V3 on H200.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import sim
from sim.views.answer import Answer, Row, tell
from sim.views.files import save_chart

QUESTION = "When does it pay to prefill and decode on different GPUs?"
HERE = Path(__file__).parent
ENGINES = 4
SHARE_IN_TIME = 0.9
CHUNK_TOKENS = 1024
LINK, NIC_GBIT_S = "infiniband-ndr", 400.0
SLOWER = (1.0, 1 / 16, 1 / 64)  # of the NICs' rate

WHOLE, CHUNKED, APART = "whole prompts first", "chunked prefill", "apart"


@dataclass(frozen=True)
class Case:
    """A model and traffic, and the service level that requests must meet."""

    model: str
    file: str
    traffic: str
    prompt: int
    output: int
    ttft_s: float
    tpot_s: float
    gpus: int
    networks: tuple[float, ...] = (1.0,)

    @property
    def name(self) -> str:
        return f"{self.model}, {self.traffic}, {1e3 * self.tpot_s:.0f} ms a token"


LLAMA = {"model": "Llama-3-70B", "file": "pools_llama70b.yaml", "gpus": 16}
DEEPSEEK = {"model": "DeepSeek-V3", "file": "pools_deepseek.yaml", "gpus": 32}
LONG_PROMPTS = {"traffic": "6000 in, 200 out", "prompt": 6000, "output": 200, "ttft_s": 2.0}
LONG_ANSWERS = {"traffic": "500 in, 500 out", "prompt": 500, "output": 500, "ttft_s": 2.0}
CASES = (
    Case(**LLAMA, **LONG_PROMPTS, tpot_s=0.025, networks=SLOWER),
    Case(**LLAMA, **LONG_PROMPTS, tpot_s=0.100),
    Case(**LLAMA, **LONG_ANSWERS, tpot_s=0.025, networks=SLOWER),
    Case(**DEEPSEEK, **LONG_PROMPTS, tpot_s=0.040, networks=SLOWER),
    Case(**DEEPSEEK, **LONG_PROMPTS, tpot_s=0.150),
    Case(**DEEPSEEK, **LONG_ANSWERS, tpot_s=0.040, networks=SLOWER),
)
QUICK = CASES[:2]  # long answers take long to settle


@dataclass(frozen=True)
class Way:
    """How the engines share the work: `prefill` of them prefill only; 0 where each does both."""

    name: str
    prefill: int = 0
    network: float = 1.0

    def __str__(self) -> str:
        return (
            f"{self.name}, {self.prefill} prefill and {ENGINES - self.prefill} decode"
            if self.prefill
            else self.name
        )


def scenario(case: Case, way: Way, rate_per_s: float, requests: int) -> sim.Scenario:
    """The case's requests at a rate, served one way."""
    changes: dict[str, Any] = {
        "workload.prompt_tokens": case.prompt,
        "workload.output_tokens": case.output,
        "workload.requests": requests,
        "workload.arrivals": {"kind": "poisson", "rate_per_s": rate_per_s},
        f"topology.links.{LINK}.bytes_per_s": f"x{way.network}",
    }
    if way.name == WHOLE:
        changes |= {
            "replicas": ENGINES,
            "engine.scheduler": "continuous",
            "engine.enable_chunked_prefill": False,
        }
    if way.name == CHUNKED:
        changes |= {
            "replicas": ENGINES,
            "engine.max_num_batched_tokens": CHUNK_TOKENS,
            "engine.max_num_seqs": 512,
        }
    base = sim.load_scenario(HERE / case.file)
    changed = sim.with_changes(base, changes)
    if way.name != APART:
        return changed
    engine = base.engine.model_dump(exclude_unset=True)
    pools = {
        "prefill": {"replicas": way.prefill, "engine": engine},
        "decode": {"replicas": ENGINES - way.prefill, "engine": engine},
    }
    kept = {name: getattr(changed, name) for name in changed.model_fields_set}
    rule = {"kv": "layerwise", "first_token": "prefill"}
    return sim.Scenario.model_validate({**kept, "pools": pools, "hand_over": rule})


def in_time(case: Case, way: Way, rate_per_s: float, quick: bool) -> float:
    """The share of requests whose first token, and whose other tokens on average, meet the service level."""
    seconds = 15.0 if quick else 40.0
    requests = int(min(max(rate_per_s * seconds, 60), 400 if quick else 1500))
    served = sim.simulate(scenario(case, way, rate_per_s, requests)).requests
    ttft_s = served["first_token_s"] - served["arrival_s"]
    tpot_s = (served["finished_s"] - served["first_token_s"]) / (case.output - 1)
    return float(((ttft_s <= case.ttft_s) & (tpot_s <= case.tpot_s)).to_numpy().mean())


@cache
def capacity(case: Case, way: Way, quick: bool) -> float:
    """Requests/s at which nine in ten are in time, by halving the interval between too few and too many."""
    low, high = 0.0, 4.0
    while in_time(case, way, high, quick) >= SHARE_IN_TIME:
        low, high = high, 2.0 * high
        if high > 256.0:
            return low
    for _ in range(3 if quick else 5):
        middle = 0.5 * (low + high)
        if in_time(case, way, middle, quick) >= SHARE_IN_TIME:
            low = middle
        else:
            high = middle
    return low


def best_split(case: Case, network: float, quick: bool) -> tuple[Way, float]:
    """The division of the engines that serves the highest rate."""
    likely = (3,) if case.prompt > case.output else (1,)
    ways = [Way(APART, prefill, network) for prefill in (likely if quick else range(1, ENGINES))]
    return max(((way, capacity(case, way, quick)) for way in ways), key=lambda found: found[1])


def by_hand_per_s(case: Case, way: Way) -> float:
    """Requests/s of engines apart: prefill at half the tensor cores' peak (with experts, a quarter), or the
    NICs of the fewer engines. Decode is left out.
    """
    active, peak = (70.6e9, 990e12) if case.model == "Llama-3-70B" else (37e9, 0.5 * 1980e12)
    kv_bytes = 327_680 if case.model == "Llama-3-70B" else 70_272 / 2
    each = case.gpus // ENGINES
    prefill_s = 2.0 * active * case.prompt / (each * peak * 0.5)
    nics_s = case.prompt * kv_bytes / (each * 49e9 * way.network)
    return min(way.prefill / prefill_s, min(way.prefill, ENGINES - way.prefill) / nics_s)


def answer(quick: bool) -> Answer:
    """When does it pay to prefill and decode on different GPUs? Requests in time, three ways."""
    rows: list[Row] = []
    bars: list[dict[str, Any]] = []
    gain: dict[tuple[str, float], float] = {}
    for case in QUICK if quick else CASES:
        together = {name: capacity(case, Way(name), quick) for name in (WHOLE, CHUNKED)}
        for name, rate in together.items():
            rows.append(Row(case.name, name, "requests/s", None, rate))
            bars.append({"case": case.name, "way": name, "rate": rate / case.gpus})
        for network in case.networks[:: 2 if quick else 1]:
            way, rate = best_split(case, network, quick)
            nics = f"{NIC_GBIT_S * network:g} Gbit/s a GPU"
            estimate = by_hand_per_s(case, way) if case.prompt > case.output else None
            rows.append(Row(case.name, f"{way}, {nics}", "requests/s", None, rate, estimate=estimate))
            bars.append({"case": case.name, "way": f"{APART}, {nics}", "rate": rate / case.gpus})
            gain[case.name, network] = rate / max(*together.values(), 1e-9)
    first, loose, answers, experts = (case.name for case in CASES[:4])
    slow = min(network for name, network in gain if name == first)
    takeaway = (
        f"With long prompts and a tight promise: apart, Llama-3-70B serves {gain[first, 1.0]:.1f} times what "
        f"the better of the two ways in one place does. Promise 100 ms a token instead of 25, and it is "
        f"{gain[loose, 1.0]:.2f} times"
    )
    if not quick:
        takeaway += (
            f"; with short prompts and long answers {gain[answers, 1.0]:.2f} times. DeepSeek-V3, where one "
            f"rank's prompt holds up all ranks' tokens, gains more: {gain[experts, 1.0]:.1f} times"
        )
    takeaway += (
        f". The caches need NICs: with {NIC_GBIT_S * slow:g} Gbit/s a GPU Llama's {gain[first, 1.0]:.1f} "
        f"times are {gain[first, slow]:.2f}."
    )
    return Answer(QUESTION, tuple(rows), takeaway, NOTES, lambda folder: [_picture(bars, folder)])


NOTES = (
    (
        "Everybody is served by the same GPUs: four engines of Llama on 16 H100, or of DeepSeek on 32 H200. "
        "The division of the engines is the best there is."
    ),
    (
        "Apart, the prefill engine shows the first token, and the second waits for the cache: slow NICs "
        "spoil the time per token before they carry all they could."
    ),
)


def _picture(bars: list[dict[str, Any]], folder: Path) -> Path:
    import altair as alt

    from sim.views.files import rows as values

    ways = [WHOLE, CHUNKED, *(f"{APART}, {NIC_GBIT_S * share:g} Gbit/s a GPU" for share in SLOWER)]
    colours = ["#9aa0a6", "#5f6368", "#1f5fa8", "#6d9fd6", "#b5d0ef"]
    shown = [way for way in ways if any(bar["way"] == way for bar in bars)]
    cases = list(dict.fromkeys(bar["case"] for bar in bars))
    panels = []
    for case in cases:
        mine = alt.Chart(values([bar for bar in bars if bar["case"] == case]))
        y = alt.Y("way:N", sort=shown, title=None, axis=alt.Axis(labels=False, ticks=False, domain=False))
        x = alt.X("rate:Q", title=None, axis=alt.Axis(format=".2f", tickCount=4))
        colour = alt.Color(
            "way:N",
            title=None,
            scale=alt.Scale(domain=shown, range=[colours[ways.index(way)] for way in shown]),
            legend=alt.Legend(orient="top", columns=3, labelLimit=260),
        )
        drawn = mine.mark_bar(height=20).encode(x=x, y=y, color=colour)
        texts = mine.mark_text(align="left", dx=4, fontSize=12).encode(
            x=x, y=y, text=alt.Text("rate:Q", format=".2f")
        )
        panels.append(
            alt.layer(drawn, texts).properties(
                width=330, height=alt.Step(24), title=alt.Title(case, anchor="start")
            )
        )
    title = alt.Title(
        "Prefill apart pays where tokens must come steadily, most where prompts are long or ranks go in step",
        subtitle="requests/s for each GPU, nine in ten with a first token in 2 s and the others as promised",
        anchor="start",
    )
    chart = (
        alt.concat(*panels, columns=2, title=title, background="white", padding=14)
        .resolve_scale(x="independent", y="independent")
        .configure_axis(labelFontSize=12, gridColor="#ececec")
        .configure_legend(labelFontSize=12)
        .configure_title(fontSize=13, subtitleFontSize=13)
        .configure_view(stroke=None)
    )
    return save_chart(chart, folder / "when_does_disaggregation_pay.png")


if __name__ == "__main__":
    tell(answer)
