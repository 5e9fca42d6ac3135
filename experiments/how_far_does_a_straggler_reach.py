"""How far does a straggler reach? One of eight GPUs computes at two thirds of its pace.

Ranks of one engine wait for each other in every layer, so that a slow GPU slows all of its engine, and no
other engine. The same eight GPUs serve the same clients as eight engines of one GPU, four of two, two of
four, one of eight tensor-parallel ranks, and as one engine of eight data-parallel ranks that share experts.
Engines beside the slow one take over its clients where the router sees that it is slow: it counts open
requests (`least_connections`), or it does not (`round_robin`).

The slow GPU's kernels take 1.5 times as long (assumed: a GPU that its temperature or its power holds at two
thirds of its clock); transfers and host keep their time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sim
from sim.views.answer import Answer, Row, tell
from sim.views.files import rows, save_chart

SCENARIO = Path(__file__).with_name("one_slow_gpu.yaml")
FACTOR = 1.5
GPUS = 8


@dataclass(frozen=True)
class Layout:
    """Engines of so many GPUs each, and how the GPUs of one work together."""

    name: str
    gpus: int
    engine: dict[str, Any]


LAYOUTS = (
    Layout("8 engines of 1 GPU", 1, {}),
    Layout("4 engines of 2 GPUs, tensor-parallel", 2, {"tensor_parallel_size": 2}),
    Layout("2 engines of 4 GPUs, tensor-parallel", 4, {"tensor_parallel_size": 4}),
    Layout("1 engine of 8 GPUs, tensor-parallel", 8, {"tensor_parallel_size": 8}),
    Layout(
        "1 engine of 8 GPUs, experts shared", 8, {"data_parallel_size": 8, "enable_expert_parallel": True}
    ),
)
ROUTERS = ("least_connections", "round_robin")


@dataclass(frozen=True)
class Found:
    """A layout and a router: tokens/s with all GPUs alike and with a slow one, and the longest steps."""

    layout: Layout
    router: str
    alike: float
    slow: float
    stretch: float  # of a token in the slow engine

    @property
    def lost(self) -> float:
        return 1.0 - self.slow / self.alike

    @property
    def by_hand(self) -> float:
        """The slow engine's share of the GPUs loses what its tokens take longer, and the others nothing."""
        return self.layout.gpus / GPUS * (1.0 - 1.0 / self.stretch)


def run(layout: Layout, router: str, quick: bool) -> Found:
    """The service with all GPUs alike, and with one of them slow."""
    base = sim.load_scenario(SCENARIO)
    engines = GPUS // layout.gpus
    engine = {**base.engine.model_dump(exclude_unset=True), **layout.engine}
    slow = {**engine, "stragglers": [{"rank": 0, "factor": FACTOR}]}
    pools = {"slow": {"replicas": 1, "engine": slow}}
    if engines > 1:
        pools["others"] = {"replicas": engines - 1, "engine": engine}
    changes: dict[str, Any] = {"router": router, "workload.requests": 320 if quick else 1920}
    alike = sim.simulate(sim.with_changes(base, {**changes, "engine": engine, "replicas": engines}))
    uneven = sim.simulate(sim.with_changes(base, {**changes, "pools": pools}))
    first, fast = (result.requests.filter(result.requests["replica"] == 0) for result in (uneven, alike))

    def tpot_s(requests: Any) -> float:
        lasted = requests["finished_s"] - requests["first_token_s"]
        return float(lasted.sum() / (requests["output_tokens"] - 1).sum())

    return Found(
        layout,
        router,
        alike.summary()["output_throughput"],
        uneven.summary()["output_throughput"],
        tpot_s(first) / tpot_s(fast),
    )


def answer(quick: bool) -> Answer:
    """How far does a straggler reach? One of eight GPUs computes at two thirds of its pace."""
    found = [run(layout, router, quick) for layout in LAYOUTS for router in routers(layout)]
    seen, unseen, whole, shared = found[0], found[1], found[-2], found[-1]
    takeaway = (
        f"As far as its engine. Of eight engines of one GPU the service loses {100 * seen.lost:.0f} % where "
        f"the router counts open requests, and {100 * unseen.lost:.0f} % where it deals them out in turn; as "
        f"one engine of eight tensor-parallel ranks {100 * whole.lost:.0f} %, and {100 * shared.lost:.0f} % "
        "where eight ranks share the experts."
    )

    def charts(folder: Path) -> list[Path]:
        return [save_chart(picture(found), folder / "how_far_does_a_straggler_reach.png")]

    return Answer("How far does a straggler reach?", tuple(table(found)), takeaway, NOTES, charts)


NOTES = (
    (
        "By hand: the slow engine's share of the GPUs, times what its tokens lose. Dealt out in turn, slow "
        "requests hold more and more of the clients, and the other engines run with fewer: that is the rest."
    ),
    (
        "A token of the slow engine takes less than 1.5 times as long at the same batch: host, launches and "
        "transfers keep their time. In turn it has more requests than the others, and takes longer."
    ),
)


def routers(layout: Layout) -> tuple[str, ...]:
    return ROUTERS if layout.gpus < GPUS else ROUTERS[:1]


def table(found: list[Found]) -> Iterable[Row]:
    for one in found:
        case = f"{one.layout.name}, {one.router}" if one.layout.gpus < GPUS else one.layout.name
        yield Row(case, "tokens/s, all GPUs alike", "1/s", None, one.alike)
        yield Row(case, "a token of the slow engine takes", "x", None, one.stretch)
        yield Row(case, "tokens/s lost", "%", None, 100 * one.lost, estimate=100 * one.by_hand)


def picture(found: list[Found]) -> Any:
    """The share of the tokens lost, by layout and router."""
    import altair as alt

    values = [{"layout": one.layout.name, "router": one.router, "lost": 100 * one.lost} for one in found]
    bars = alt.Chart(rows(values)).encode(
        y=alt.Y(
            "layout:N",
            sort=[one.name for one in LAYOUTS],
            title=None,
            axis=alt.Axis(labelFontSize=12, labelLimit=320, domain=False, ticks=False, labelPadding=6),
        ),
        yOffset=alt.YOffset("router:N", sort=list(ROUTERS)),
        x=alt.X("lost:Q", title="tokens/s lost, %"),
    )
    return (
        alt.layer(
            bars.mark_bar().encode(
                color=alt.Color(
                    "router:N", sort=list(ROUTERS), legend=alt.Legend(title="router", orient="top")
                )
            ),
            bars.mark_text(align="left", dx=5, fontSize=12).encode(text=alt.Text("lost:Q", format=".1f")),
        )
        .properties(
            width=620,
            height=320,
            padding=16,
            background="white",
            title=alt.Title(
                "One of eight GPUs at two thirds of its pace costs its engine",
                subtitle="Qwen3-30B-A3B on eight H100, 64 clients",
                anchor="start",
                fontSize=18,
                subtitleFontSize=13,
                offset=14,
            ),
        )
        .configure_view(stroke=None)
        .configure_axis(labelFontSize=12, titleFontSize=13, gridColor="#e6e6e6")
    )


if __name__ == "__main__":
    tell(answer)
