"""The tables of docs/machines.md: what each shipped machine has and rests on, and what others have published
of it beside what is simulated.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sim.cli.output import note
from sim.views.page_marks import put_between

if TYPE_CHECKING:
    from sim.inputs.topology import Topology
    from sim.results.basis import Basis

MACHINES = "<!-- table of machines -->", "<!-- end of the machines -->"
POINTS = "<!-- table of published numbers -->", "<!-- end of the published numbers -->"
HEAD = (
    "machine", "GPUs", "memory of one", "its GB/s", "dense TFLOP/s: 16, 8, 4 bits",
    "NVLink, or its like, joins", "GB/s of one into it", "GB/s of one across", "kernels",
    "collectives in a server", "published",
)  # fmt: skip
POINT_HEAD = ("machine", "quantity", "published", "simulated", "off by", "band", "source")


def write_tables(page: Path) -> None:
    """Put both tables between their marks in a page. InputError where the page has none."""
    put_between(page, *MACHINES, machines_table())
    put_between(page, *POINTS, points_table())
    note(f"written to {page}")


def machines_table() -> str:
    """Markdown, one machine a line; rates are payload per direction."""
    from sim.catalog import list_topologies, load_topology

    rows = [_machine(load_topology(name)) for name in list_topologies()]
    return "\n".join(["| " + " | ".join(HEAD) + " |", "| --- " * len(HEAD) + "|", *rows])


def _machine(topology: Topology) -> str:
    from sim.basis import collective_basis, collectives_on, kernel_basis, machine_origin
    from sim.cost.kernels.kernels import formula
    from sim.cost.network import Network
    from sim.inputs.topology_check import bisection_bytes_per_s, halves, in_domain_bytes_per_s
    from sim.validation.machines import machine_points

    network = Network(topology.graph)
    gpu = topology.gpu(network.gpus[0])
    graph = topology.graph
    domain = [
        one for one in network.gpus if graph.nodes[one]["domain"] == graph.nodes[network.gpus[0]]["domain"]
    ]
    joined = topology.peer_to_peer and len(domain) > 1
    pair = _two(topology)
    leaves = topology.scale_out and (pair is not topology or len(domain) < len(network.gpus))
    across = bisection_bytes_per_s(pair.graph) / len(halves(pair.graph)[0]) / 1e9 if leaves else None
    ranks = [one for one in network.gpus if network.node_of[one] == network.node_of[network.gpus[0]]]
    collectives = "none: one GPU"
    if len(ranks) > 1:
        who = collectives_on(network, ranks)
        collectives = _basis(collective_basis(who, machine_origin(topology), "vllm"))
    published = sum(point.system == topology.name for point in machine_points())
    peaks = [
        gpu.flops.get("bf16", gpu.flops.get("fp16")),
        gpu.flops.get("fp8", gpu.flops.get("int8")),
        gpu.flops.get("fp4"),
    ]
    cells = (
        topology.name,
        f"{len(network.gpus)} {gpu.name}",
        f"{gpu.hbm_bytes / 1e9:.0f} GB",
        f"{gpu.hbm_bytes_per_s / 1e9:,.0f}",
        ", ".join("none" if peak is None else f"{peak / 1e12:,.0f}" for peak in peaks),
        str(len(domain)) if joined else "none",
        f"{in_domain_bytes_per_s(graph, network.gpus[0]) / 1e9:,.0f}" if joined else "",
        "none" if across is None else f"{across:,.1f}",
        _basis(kernel_basis(gpu, formula, "vllm", [("gemm", "bf16")], "memory")),
        collectives,
        str(published)
        if published
        else "[fits](accuracy.md)"
        if topology.basis == "measured"
        else "none found",
    )
    return "| " + " | ".join(cells) + " |"


def _two(topology: Topology) -> Topology:
    """Two servers of it, where they can be joined."""
    if not topology.scale_out or topology.servers > 1:
        return topology
    return topology.model_copy(update={"nodes": 2})


def _basis(part: Basis) -> str:
    return (
        "measured"
        if part.kind == "measured"
        else f"{part.of}'s, scaled"
        if part.kind == "stand-in"
        else part.kind
    )


def points_table() -> str:
    """Markdown, one published number a line."""
    from sim.validation.machines import machine_points

    lines = ["| " + " | ".join(POINT_HEAD) + " |", "| --- | --- | ---: | ---: | ---: | --- | --- |"]
    for point in machine_points():
        published, unit = point.published
        value, band = point.simulated()
        within = "" if band is None else f"{band[0]:.3g} to {band[1]:.3g}"
        if point.outside:
            within += f"; {point.outside}"
        cells = (
            point.system, point.what, f"{published:.4g} {unit}", f"{value:.4g}",
            f"{value / published - 1.0:+.0%}", within, point.source,
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
