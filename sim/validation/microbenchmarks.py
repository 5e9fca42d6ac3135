"""Rows of the ledger from kernels and collectives that were timed alone."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from sim.catalog import load_topology
from sim.cost.collectives.choice import collective
from sim.cost.network import Network
from sim.reading.data_files import measured as measured_folder
from sim.results.compared import BOX, Row

AICONFIGURATOR = "NVIDIA aiconfigurator 0.12.0 (Apache-2.0)"
INTER_NODE = "xxrjun/nccl-tests-cluster 455de4f (Apache-2.0), medians over pairs of nodes"
SOURCES = {
    "nccl.csv": "NVIDIA aiconfigurator-core 0.12.0 (Apache-2.0), nccl-tests",
    "engines.csv": "NVIDIA aiconfigurator-core 0.12.0 (Apache-2.0), kernels of engines",
}


def kernel_rows() -> Iterator[Row]:
    """Kernels of shapes that no parameter was fitted on (`sim/data/measured`)."""
    from sim.calibration.kernels import measurements_of, shipped_predictions

    for measured, predicted_s, _ in shipped_predictions(measurements_of([measured_folder()])):
        case = f"{measured.gpu}, {measured.engine}, {measured.variant}: {_sizes(measured.sizes)}"
        # Most experts of vLLM are priced by TensorRT-LLM's parameters: `sim.calibration.kernel_files`.
        lent = measured.op == "moe" and measured.engine == "vllm"
        yield Row(
            case, "moe of vLLM" if lent else measured.op, "us", 1e6 * measured.seconds, 1e6 * predicted_s,
            "predicted", AICONFIGURATOR, size=1e6 * measured.seconds,
        )  # fmt: skip


def _sizes(sizes: object) -> str:
    values = sizes if isinstance(sizes, dict) else dict(sizes)  # type: ignore[call-overload]
    return ", ".join(f"{name} {value}" for name, value in values.items() if not isinstance(value, str))


def collective_rows() -> Iterator[Row]:
    """Collectives alone, inside a server and between servers; part of them set their parameters."""
    yield from _intra_node()
    yield from _inter_node()


def _inter_node() -> Iterator[Row]:
    with ((measured_folder() / "collectives") / "h100_cluster.csv").open(
        newline="", encoding="utf-8"
    ) as lines:
        rows = list(csv.DictReader(lines))
    networks = {nodes: Network(load_topology("nd-h100-v5", nodes=nodes).graph) for nodes in (2, 10)}
    for row in rows:
        nodes, each, n_bytes = int(row["nodes"]), int(row["gpus_per_node"]), float(row["size_bytes"])
        if nodes not in networks:
            continue
        network = networks[nodes]
        ranks = [gpu for gpu in network.gpus if int(gpu.rsplit("gpu", 1)[1]) < each]
        timing = collective(network, row["op"], n_bytes, ranks, library="nccl")
        case = f"h100, {nodes} nodes of {each} GPUs, {n_bytes:,.0f} bytes"
        yield Row(
            case, f"{row['op']} across nodes", "us", float(row["latency_us_median"]), 1e6 * timing.total_s,
            "fitted", INTER_NODE, size=n_bytes, of={"op": row["op"], BOX: network.name},
        )  # fmt: skip


def _intra_node() -> Iterator[Row]:
    from sim.calibration.collective_points import ISLANDS, is_modelled, read_points
    from sim.calibration.collectives import errors, shipped

    folder = measured_folder() / "collectives"
    for name, source in SOURCES.items():
        kept = [one for one in read_points([folder / name]) if is_modelled(one) and one.system in ISLANDS]
        for point, error in errors(kept, shipped()):
            case = f"{point.system}, {point.library}, {point.gpus} GPUs, {point.n_bytes:,.0f} bytes"
            measured_us = 1e6 * point.seconds
            yield Row(
                case, point.op, "us", measured_us, measured_us * (1.0 + error), "fitted", source,
                size=float(point.n_bytes), of={BOX: f"{point.gpus} GPUs of {point.system} alone"},
            )  # fmt: skip
