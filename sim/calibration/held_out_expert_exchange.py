"""How well the model of expert dispatch and combine holds on ranks and machines that it was not fitted to.

Each library's kernel (`topologies/collectives/experts.yaml`) is fitted again without one system and number
of ranks, and predicts that one. Beside it stand the bytes at the full rate of the links, and a plain
alpha-beta model in tokens times width, fitted to the same points. Of several numbers of SMs the best counts.
Left out are libraries that are timed from Python with everything around them (vLLM's and TensorRT-LLM's
wrappers of DeepEP), and those that no kernel here models (NVLinkTwoSided, MnnvlMoe).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import log2
from pathlib import Path

from sim.calibration.fitting import CurveErrors, Floats, log_fit
from sim.catalog import load_topology
from sim.cost.collectives.expert_exchange import ExpertChoice, Phase, chosen, payload_s
from sim.cost.network import Network
from sim.reading.published_names import SYSTEMS
from sim.results.compared import ErrorSummary

LIBRARIES = {
    "trtllm_NVLinkOneSided_nvfp4": ("one_sided", 0.5625),
    "deepep_low_latency": ("deepep_low_latency", 1.0),
    "deepep_normal": ("deepep_high_throughput", 1.0),
}
PHASES: tuple[Phase, Phase] = ("dispatch", "combine")
COMBINED_BYTES = 2.0
RANKS_PER_SERVER = 8


@dataclass(frozen=True, slots=True)
class ExchangePoint:
    """One timed phase; `kernel` is that of `experts.yaml` which models it, `intra_node_s` and `inter_node_s`
    what its bytes take on NVLink and between domains at their full rates.
    """

    kernel: str
    library: str
    system: str
    ranks: int
    phase: Phase
    n_bytes: float
    intra_node_s: float
    inter_node_s: float
    seconds: float

    @property
    def group(self) -> tuple[str, int]:
        return self.system, self.ranks


Model = Callable[[ExchangePoint], float]


@cache
def exchange_network(system: str, ranks: int) -> Network:
    nodes = 1 if system == "gb200" else max(1, ranks // RANKS_PER_SERVER)
    return Network(load_topology(SYSTEMS[system], nodes=nodes).graph)


def exchange_points(path: Path) -> list[ExchangePoint]:
    """The points of a table."""
    with path.open(newline="", encoding="utf-8") as file:
        return points_of(csv.DictReader(file))


def points_of(rows: Iterable[Mapping[str, str]]) -> list[ExchangePoint]:
    """The points of libraries that are modelled; the sample's rows without sizes are DeepSeek-V3's."""
    best: dict[tuple[str, str, int, Phase, int, int, int, int], float] = {}
    for row in rows:
        phase = next((phase for phase in PHASES if phase == row["phase"]), None)
        if row["library"] not in LIBRARIES or row["system"] not in SYSTEMS or phase is None:
            continue
        hidden, topk, experts = (
            int(row.get(name) or usual) for name, usual in (("hidden", 7168), ("topk", 8), ("experts", 256))
        )
        tokens = int(row["tokens_per_rank"])
        key = (row["library"], row["system"], int(row["ep"]), phase, hidden, topk, experts, tokens)
        # Rows differ also by the number of SMs; a service would take the best.
        best[key] = min(best.get(key, float("inf")), 1e-6 * float(row["latency_us"]))
    return [_point(*key, seconds) for key, seconds in sorted(best.items())]


def _point(
    library: str, system: str, ranks: int, phase: Phase, hidden: int, topk: int, experts: int, tokens: int,
    seconds: float,
) -> ExchangePoint:  # fmt: skip
    name, width = LIBRARIES[library]
    network = exchange_network(system, ranks)
    gpus = network.gpus[:ranks]
    n_bytes = tokens * hidden * (width if phase == "dispatch" else COMBINED_BYTES)
    inside_s, across_s = payload_s(network, phase, gpus, ExpertChoice(experts, topk), library=name)
    kernel = chosen(network, gpus, has_prefill=False, library=name)
    which = f"{name}, {'between' if kernel.spans_domains else 'inside'}, {kernel.nvlink_bytes_per_s:g}"
    return ExchangePoint(
        which, library, system, ranks, phase, n_bytes, n_bytes * inside_s, n_bytes * across_s, seconds
    )


def fitted(seen: Sequence[ExchangePoint]) -> Model:
    """Seconds of a point by a base, a growth with doublings of the ranks, and shares of the links' rates."""

    def seconds(one: ExchangePoint, values: Floats) -> float:
        base_s, doubling_s, inside, across = values
        flow_s = max(one.intra_node_s / inside, one.inter_node_s / across)
        return float(base_s + doubling_s * log2(one.ranks) + flow_s)

    return _fit(seconds, seen, [10e-6, 2e-6, 0.7, 0.7], [(1e-7, 2e-4), (1e-9, 5e-5), (0.1, 1), (0.1, 1)])


def at_link_rate(one: ExchangePoint) -> float:
    """The bytes at the full rate of the busiest link, and nothing else."""
    return max(one.intra_node_s, one.inter_node_s)


def alpha_beta(seen: Sequence[ExchangePoint]) -> Model:
    """The plain model: one latency, one rate for what a rank sends, whatever the ranks and links."""

    def seconds(one: ExchangePoint, values: Floats) -> float:
        return float(values[0] + one.n_bytes / values[1])

    return _fit(seconds, seen, [20e-6, 1e11], [(1e-7, 1e-2), (1e8, 1e13)])


def _fit(
    seconds: Callable[[ExchangePoint, Floats], float],
    seen: Sequence[ExchangePoint],
    start: Sequence[float],
    bounds: Sequence[tuple[float, float]],
) -> Model:
    values = log_fit(lambda values: [seconds(one, values) / one.seconds for one in seen], start, bounds)
    return lambda one: seconds(one, values)


def held_out(points: Sequence[ExchangePoint]) -> list[CurveErrors]:
    """Errors on each system and number of ranks by a fit to the others of its kernel, if there are others."""
    rows = []
    for kernel in sorted({one.kernel for one in points}):
        for phase in PHASES:
            own = [one for one in points if one.kernel == kernel and one.phase == phase]
            for group in sorted({one.group for one in own}):
                seen = [one for one in own if one.group != group]
                unseen = [one for one in own if one.group == group]
                # Four numbers are fitted; of a single point there is no 90th percentile.
                if len(seen) < 4 or len(unseen) < 2:
                    continue
                errors = (
                    ErrorSummary.of([model(one) / one.seconds - 1.0 for one in unseen])
                    for model in (fitted(seen), alpha_beta(seen), at_link_rate)
                )
                system, ranks = group
                library = unseen[0].library
                rows.append(CurveErrors("system and ranks", system, library, phase, ranks, *errors))
    return rows
