"""What a topology leaves open, and what is taken in its place: the lines of `sim topology check` that say how
much of an answer is this machine's and how much is another one's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.cost.network import Network
    from sim.inputs.hardware import Gpu
    from sim.inputs.topology import Topology
    from sim.results.basis import Basis

Gap = tuple[str, str]
MEASURED_MACHINES = "the latency of the machines on which collectives were measured"
FORMATS = ("bf16", "fp8", "fp4")


def gaps(topology: Topology, network: Network) -> Iterator[Gap]:
    """What is left out or borrowed, and from where."""
    kinds = list(topology.systems.values()) or [topology]
    for name, part in ((name, part) for one in kinds for name, part in one.parts.items()):
        if part.latency_s is None and part.kind not in ("gpu", "store"):
            yield f"parts.{name}.latency_s", MEASURED_MACHINES
    for name, link in ((name, link) for one in kinds for name, link in one.links.items()):
        if link.latency_s is None:
            yield f"links.{name}.latency_s", MEASURED_MACHINES
        if "efficiency" not in link.model_fields_set:
            yield f"links.{name}.efficiency", "1: all of the rate is payload"
    for gpu in topology.gpu_models.values():
        yield from _of_gpu(gpu)
    yield from _of_collectives(topology, network)
    if topology.own_graph is None and not any(one.scale_out for one in kinds):
        yield "scale_out", "none: more servers than one cannot be joined"
    for name, transport in topology.known_transports.items():
        in_use = name == topology.inter_node and topology.servers > 1
        if in_use and transport.hop_s is None:
            yield f"transports.{name}.hop_s", "NCCL's own constants for a network plugin, on InfiniBand"


def _of_gpu(gpu: Gpu) -> Iterator[Gap]:
    from sim.basis import HOST_LENDER, host_basis, kernel_basis
    from sim.cost.kernels.kernels import formula
    from sim.inputs.engine import Engine

    if gpu.visible_hbm_bytes is None:
        yield f"gpus.{gpu.name}.visible_hbm_bytes", "hbm_bytes; drivers show some percent less, or more"
    known = FORMATS[:1] if _is_shipped(gpu) else FORMATS
    missing = [name for name in known if name not in gpu.flops]
    if missing:
        yield (
            f"gpus.{gpu.name}.flops: {', '.join(missing)}",
            "none: what computes in these formats is refused, or in wider ones",
        )
    kernels = kernel_basis(gpu, formula, "vllm", [("gemm", "bf16")], "memory")
    if kernels.kind == "stand-in":
        yield f"kernels of {gpu.name}", _borrowed(kernels)
    if host_basis(Engine.model_validate({}), gpu).kind == "stand-in":
        yield f"steps and launches on the host of {gpu.name}", f"those of {HOST_LENDER}"


def _is_shipped(gpu: Gpu) -> bool:
    from sim.catalog import list_gpus, load_gpu

    return gpu.name in list_gpus() and gpu == load_gpu(gpu.name)


def _of_collectives(topology: Topology, network: Network) -> Iterator[Gap]:
    from sim.basis import collective_basis, collectives_on, machine_origin

    origin = machine_origin(topology)
    servers: dict[int, list[str]] = {}
    for gpu in network.gpus:
        servers.setdefault(network.node_of[gpu], []).append(gpu)
    inside = next(iter(servers.values()))
    for what, ranks in (("collectives in a server", inside), ("collectives between servers", network.gpus)):
        if len(ranks) > 1 and (what.endswith("a server") or len(servers) > 1):
            part = collective_basis(collectives_on(network, ranks), origin, "vllm")
            if part.kind == "stand-in":
                yield what, _borrowed(part)


def _borrowed(part: Basis) -> str:
    if part.band is None:
        return f"those of {part.of}, scaled"
    low, high = part.band
    return f"those of {part.of}, scaled; true times {low:.2f} to {high:.2f} of these"
