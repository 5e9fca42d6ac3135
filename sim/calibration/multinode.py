"""Fits what NCCL reaches between servers (`topologies/collectives/across.yaml`) to measured collectives.

    sim calibrate collectives CLUSTER.csv VIDUR.csv POINTS.csv --write-across FILE

Latencies, trees and the rates of LL stay NCCL's own (src/graph/tuning.cc): there are too few small messages
over known fabrics to say better. Fitted are the shares of rates that rings and grouped sends reach, and the
filling of pipelines. How well that holds on what a fit did not see: `held_out_multinode`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from sim.calibration.collectives import Raw
from sim.calibration.fitting import Floats, log_fit
from sim.calibration.multinode_points import MultinodePoint, cluster_network, ranks_of
from sim.cost.collectives.choice import collective
from sim.cost.collectives.parameters import Parameters, collectives_folder, parameters_of

# Path of a number in across.yaml -> lower and upper bound.
FREE: dict[tuple[str, ...], tuple[float, float]] = {
    ("nccl", "ring", "LL128", "step_fill_s"): (1e-8, 1e-5),
    ("nccl", "ring", "Simple", "efficiency"): (0.5, 1.0),
    ("nccl", "ring", "Simple", "step_fill_s"): (1e-8, 1e-5),
    ("nccl", "level_fill_s"): (1e-6, 1e-3),
    ("nccl", "direct", "net_hop_s"): (1e-6, 5e-5),
    ("nccl", "direct", "efficiency"): (0.5, 1.0),
    ("nccl", "direct", "channel_bytes_per_s"): (5e9, 5e10),
}
ONLY_PREDICTED = ("gb200",)  # 1,440 ranks take a second a look, and only in trees, whose rates are NCCL's own


def ratios(measured: Sequence[MultinodePoint], parameters: Parameters) -> list[float]:
    """Modelled over measured time of each point."""
    for network in {id(n): n for n in (cluster_network(one.system, one.nodes) for one in measured)}.values():
        network.remembered.forget_offers()
    found = []
    for one in measured:
        network = cluster_network(one.system, one.nodes)
        timing = collective(
            network, one.op, one.n_bytes, ranks_of(network, one.gpus_per_node), library="nccl",
            algorithm=one.algorithm, parameters=parameters,
        )  # fmt: skip
        found.append(timing.total_s / one.seconds)
    return found


def fitted(files: Raw, measured: Sequence[MultinodePoint]) -> Raw:
    """The files with the free numbers fitted. A number that no point depends on stays what it was."""
    files = deepcopy(files)
    measured = [one for one in measured if one.system not in ONLY_PREDICTED]

    def with_values(values: Floats) -> list[float]:
        for path, value in zip(FREE, values.tolist(), strict=True):
            _at(files, path)[path[-1]] = value
        return ratios(measured, parameters_of(files))

    # Steps of a thousandth: the model chooses among algorithms, and a smaller step sees only rounding.
    start = [_at(files, path)[path[-1]] for path in FREE]
    with_values(log_fit(with_values, start, list(FREE.values()), max_nfev=30, diff_step=[1e-3]))
    return files


def neutral(files: Raw) -> Raw:
    """The files with every free number at the middle of its bounds, which knows of no point."""
    files = deepcopy(files)
    for path, (low, high) in FREE.items():
        _at(files, path)[path[-1]] = (low * high) ** 0.5
    return files


def _at(files: Raw, path: tuple[str, ...]) -> dict[str, Any]:
    block: Any = files["across"]
    for name in path[:-1]:
        block = block[name]
    found: dict[str, Any] = block
    return found


SOURCE = (
    "sim calibrate collectives MEASURED --write-across, on nccl-tests of 2 and 10 nodes of 8 H100 "
    "(xxrjun/nccl-tests-cluster 455de4f, Apache-2.0), microsoft/vidur 7d47513 (MIT) between two servers and "
    "single points of NVIDIA's issue trackers; not the two-node 483.3 GB/s at 8 GB"
)


def inter_node_text(files: Raw, source: str = SOURCE) -> str:
    """The shipped `across.yaml` with the fitted numbers in place of its own, and where they are from."""
    import yaml

    text = (collectives_folder() / "across.yaml").read_text(encoding="utf-8")
    paths = [*FREE, ("nccl", "fitted", "source")]
    values = [f"{_at(files, path)[path[-1]]:.3e}" for path in FREE]
    replaced = []
    for path, value in zip(paths, [*values, '"' + source.replace('"', "'") + '"'], strict=True):
        node: Any = yaml.compose(text)
        for name in path:
            node = next(inner for key, inner in node.value if key.value == name)
        replaced.append((node.start_mark.index, node.end_mark.index, value))
    for start, end, value in sorted(replaced, reverse=True):
        text = text[:start] + value + text[end:]
    return text
