"""What one operation takes on an idle machine: a collective on a topology, a kernel on a GPU."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError, validate_call

from sim.basis import collective_basis, collectives_on, kernel_basis, machine_origin
from sim.catalog import find, load_gpu, load_topology
from sim.cost.collectives import choice
from sim.cost.collectives.choice import CollectiveTiming
from sim.cost.collectives.demands import ALGORITHMS, OPS
from sim.cost.collectives.engine_allreduce import DEMAND_OF
from sim.cost.kernels.attention import prefill_variant
from sim.cost.kernels.kernels import KERNELS, formula
from sim.cost.kernels.timing import KernelTiming
from sim.cost.machine_basis import pcie_span
from sim.cost.network import Network
from sim.inputs.errors import InputError
from sim.inputs.topology import Topology
from sim.reading.problems import did_you_mean, problems_of, unknown_name
from sim.results.basis import Basis, size_class

if TYPE_CHECKING:
    import networkx as nx

    from sim.inputs.hardware import Gpu


@dataclass(frozen=True, slots=True)
class Collective(CollectiveTiming):
    """A collective alone, and what its time rests on."""

    gpus: tuple[str, ...] = field(repr=False, compare=False)
    network: Network = field(repr=False, compare=False)
    topology: Topology = field(repr=False, compare=False)

    @property
    def pcie_span(self) -> str | None:
        """How far apart over PCIe the GPUs are; None where no byte of this collective goes by PCIe."""
        ends = (end for link in self.demand.links for end in self.network.ends[link])
        over_pcie = any(self.network.kind(end) in ("pcie_switch", "host") for end in ends)
        return pcie_span(self.network, self.gpus) if over_pcie else None

    @property
    def basis(self) -> Basis:
        """Where the library's times are from, with the errors that such collectives have."""
        of = {"op": self.op, "size": size_class(self.n_bytes), "ranks": str(self.ranks)}
        who = replace(collectives_on(self.network, self.gpus), span=self.pcie_span)
        return collective_basis(who, machine_origin(self.topology), self.library, **of)


class Kernel(KernelTiming):
    """A kernel alone, and what its time rests on."""

    basis: Basis


def collective(
    topology: Topology | nx.DiGraph[str] | str | Path | Mapping[str, Any],
    op: str,
    n_bytes: float,
    ranks: int | Sequence[int] | Sequence[str] | None = None,
    *,
    nodes: int | None = None,
    library: str = "auto",
    algorithm: str = "auto",
    protocol: str = "auto",
    launch: str = "graph",
) -> Collective:
    """Seconds and bandwidth of one collective of `n_bytes` (nccl-tests' size: a rank's whole buffer), alone.

    `topology` is a name, a file, what a file would say, a Topology or a script's own graph; `ranks` are how
    many GPUs, or which (indices in rank order, or names); by default all. `library` auto, nccl or vllm picks
    algorithm and protocol as that library would, unless they are named. InputError for wrong names,
    InfeasibleError where there is no path.
    """
    if not n_bytes > 0:
        raise InputError(f"n_bytes = {n_bytes:g}: must be more than 0")
    algorithms = {name for ways in ALGORITHMS.values() for name in ways} | set(DEMAND_OF)
    for what, name, known in (
        ("collective", op, OPS),
        ("library", library, choice.LIBRARIES),
        ("algorithm", algorithm, ("auto", *sorted(algorithms))),
    ):
        if name not in known:
            raise InputError(unknown_name(what, name, known))
    described = _topology(topology, nodes)
    network = _compiled(described.graph)
    gpus = _gpus(network, ranks)
    timing = choice.collective(
        network,
        op,
        n_bytes,
        gpus,
        library=library,
        algorithm=algorithm,
        protocol=protocol,
        launch=launch,
    )
    parts = {part.name: getattr(timing, part.name) for part in fields(timing)}
    return Collective(**parts, gpus=gpus, network=network, topology=described)


def kernel(gpu: Gpu | str, kind: str, **shape: Any) -> Kernel:
    """Seconds of one kernel on one GPU, alone: `kernel("h100-sxm", "gemm", m=64, n=8192, k=8192)`.

    The shape is the arguments of the function of that name in `sim.cost.kernels.kernels`. Timed as
    benchmarks do, again and again on the same data, unless `warm=False`. InputError for a wrong name,
    and for arguments that are missing or unknown.
    """
    if kind not in KERNELS:
        raise InputError(unknown_name("kernel", kind, list(KERNELS)))
    described = load_gpu(gpu) if isinstance(gpu, str) else gpu
    _refuse_wrong_names(kind, KERNELS[kind], shape)
    if "warm" in inspect.signature(KERNELS[kind]).parameters:
        shape = {"warm": True, **shape}
    try:
        timing = Kernel(*validate_call(KERNELS[kind])(described, **shape))
    except ValidationError as error:
        raise InputError(problems_of(error)) from error
    except ValueError as error:
        raise InputError(f"{kind}: {error}") from error
    timing.basis = kernel_basis(described, formula, "", [(kind, _format(kind, shape))], timing.bound)
    return timing


def _format(kind: str, shape: Mapping[str, Any]) -> str:
    """The number format by which a kernel of this shape has its constants."""
    if kind.endswith("prefill"):
        return prefill_variant(shape.get("dtype", "bf16"), shape.get("kv_dtype", "bf16"))
    named = str(shape.get("kv_dtype" if kind.startswith(("attention", "mla")) else "dtype", "bf16"))
    return "bf16" if named == "fp16" else named  # which have the same constants


def _topology(
    topology: Topology | nx.DiGraph[str] | str | Path | Mapping[str, Any], nodes: int | None
) -> Topology:
    if isinstance(topology, str | Path):
        path = find("topology", topology)
        return _described(path, path.stat().st_mtime_ns, nodes)
    return load_topology(topology, nodes=nodes)


@lru_cache(maxsize=16)
def _described(path: Path, changed_ns: int, nodes: int | None) -> Topology:
    return load_topology(path, nodes=nodes)


@lru_cache(maxsize=16)
def _compiled(graph: nx.DiGraph[str]) -> Network:
    # A graph is remembered as the object that it is; a Topology never changes its own.
    return Network(graph)


def _gpus(network: Network, ranks: int | Sequence[int] | Sequence[str] | None) -> tuple[str, ...]:
    gpus = network.gpus
    if ranks is None:
        return gpus
    if isinstance(ranks, int):
        if not 1 <= ranks <= len(gpus):
            raise InputError(
                f"ranks = {ranks}: must be from 1 to {len(gpus)}, the GPUs of {network.name}; "
                "more nodes have more"
            )
        return gpus[:ranks]
    chosen = []
    for rank in ranks:
        if isinstance(rank, str) and rank not in network.gpu_index:
            raise InputError(f"there is no GPU {rank!r} in {network.name}{did_you_mean(rank, gpus)}")
        if not isinstance(rank, str) and not 0 <= rank < len(gpus):
            raise InputError(f"rank = {rank}: must be from 0 to {len(gpus) - 1} on {network.name}")
        chosen.append(rank if isinstance(rank, str) else gpus[rank])
    if len(set(chosen)) != len(chosen):
        raise InputError("ranks name a GPU twice; each GPU is one rank")
    return tuple(chosen)


def _refuse_wrong_names(kind: str, function: Callable[..., KernelTiming], shape: Mapping[str, Any]) -> None:
    parameters = dict(list(inspect.signature(function).parameters.items())[1:])
    problems = [
        f"{name} is not an argument of {kind}{did_you_mean(name, parameters)}"
        for name in shape
        if name not in parameters
    ]
    required = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    missing = [name for name in required if name not in shape]
    if missing:
        problems.append(f"{kind} needs {', '.join(missing)}")
    problems += [
        f"{name} {size} is negative; a size is not"
        for name, size in shape.items()
        if isinstance(size, int | float) and size < 0
    ]
    if problems:
        usage = [
            name if name in required else f"{name} (default {parameter.default})"
            for name, parameter in parameters.items()
        ]
        raise InputError([*problems, f"{kind} takes {', '.join(usage)}"])
