"""What a collective library costs on a kind of GPU: latencies and rates, from
`topologies/collectives/*.yaml`.

The numbers live in data files with their tag and source; here are their meanings. A GPU that no file names
takes the parameters of its nearest stand-in, by its NVLink rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from sim.cost.network import Network
from sim.inputs.errors import InfeasibleError
from sim.inputs.parts import OwnCollectives
from sim.reading.data_files import topologies

PROTOCOLS = ("LL", "LL128", "Simple")
_Block = TypeVar("_Block")


@dataclass(frozen=True, slots=True)
class Protocol:
    """A protocol of NCCL inside one island.

    `base_s` once, `hop_s` per step of a ring. As a step's share of the message grows past `slice_bytes`, a
    step takes up to `slice_s` longer: one channel's slice fills before the next channel is used. `fill_s`
    is the filling of the pipeline of a large message, reached past `fill_bytes`. `bytes_per_s` bounds the
    ring's rate (the threads of the kernel), `efficiency` bounds it as a share of what the links carry,
    `wire` is bytes on the wire per byte of payload.
    """

    base_s: float
    hop_s: float
    slice_s: float = 0.0
    slice_bytes: float = 1.0
    fill_s: float = 0.0
    fill_bytes: float = 1.0
    bytes_per_s: float = float("inf")
    efficiency: float = 1.0
    wire: float = 1.0


@dataclass(frozen=True, slots=True)
class SwitchReduction:
    """In-switch reduction: a start, the filling of its pipeline, and a rate as a share of a GPU's NVLink
    payload rate.

    The pipeline is deeper with more ranks, each of which owns a part: `fill_rank_s` for each, and as many
    times `fill_bytes` to fill it. The rate counts a GPU's whole buffer once. `least_ranks` is the smallest
    group for which the library uses it.
    """

    base_s: float
    rank_s: float
    fill_s: float
    fill_rank_s: float
    fill_bytes: float
    efficiency: float
    least_ranks: int


@dataclass(frozen=True, slots=True)
class Direct:
    """Grouped sends and receives in one kernel (all-to-all, send/recv).

    `base_s` + `rank_s` per rank, a pipeline filled by `fill_s` past `fill_bytes`, and a rate as a share of
    what the links carry. `local_bytes_per_s` is the rate of a rank's copy of its own share, which passes no
    link.
    """

    base_s: float
    rank_s: float
    fill_s: float
    fill_bytes: float
    efficiency: float
    local_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class EngineKernel:
    """An engine's own all-reduce kernel: a start per call and per rank, the filling of its pipeline, and a
    rate.

    The rate is a share of what the busiest link of its demand carries; `local_bytes_per_s` is that of a
    rank's reading and writing of its own part, which passes no link.
    """

    base_s: float
    rank_s: float
    efficiency: float
    local_bytes_per_s: float = float("inf")
    fill_s: float = 0.0
    fill_bytes: float = 1.0


@dataclass(frozen=True, slots=True)
class Nccl:
    """NCCL on one kind of GPU, inside an island.

    `local_bytes_per_s` is the rate at which a rank copies its own part aside, which passes no link;
    `through_host_efficiency` is what is left of a PCIe ring's rate where it turns round in a root complex.
    """

    ring: Mapping[str, Protocol]
    local_bytes_per_s: float
    through_host_efficiency: float
    switch: SwitchReduction | None
    direct: Direct


@dataclass(frozen=True, slots=True)
class EngineAllReduce:
    """An inference engine's own all-reduce kernels on one kind of GPU, and when it uses them.

    `choice` has, per number of ranks, kernels with the size below which each is used, in order of size.
    """

    kernels: Mapping[str, EngineKernel]
    choice: Mapping[int, tuple[tuple[str, float], ...]]
    eager_launch_s: float


@dataclass(frozen=True, slots=True)
class Architecture:
    """Everything known of one kind of GPU; `medium` is what joined the GPUs that were measured, nvlink
    or pcie.
    """

    name: str
    medium: str
    nccl: Nccl
    engines: Mapping[str, EngineAllReduce]


@dataclass(frozen=True, slots=True)
class Parameters:
    """All kinds of GPU, and what is between islands and over other media.

    `latencies`: the least and the most that each kind of link and place takes on the machines of the fits.
    """

    architectures: Mapping[str, Architecture]
    gpus: Mapping[str, str]
    nvlink_stand_ins: tuple[tuple[float, str], ...]
    media: Mapping[str, Mapping[str, Any]]
    inter_node: Mapping[str, Any]
    latencies: Mapping[str, tuple[float, float]]
    provenance: Mapping[str, Mapping[str, str]]
    blocks: Mapping[str, Any] = field(default_factory=dict, repr=False)  # as the file has them

    def architecture(self, network: Network, gpu: str) -> Architecture:
        """The kind of a GPU by its model's name, or its nearest stand-in by NVLink rate; or the machine's."""
        if network.own_collectives is not None:
            return self._own(network.own_collectives, self._named_or_near(network, gpu).name)
        return self._named_or_near(network, gpu)

    def _own(self, own: OwnCollectives, near: str) -> Architecture:
        """A kind with the values that a topology gives in place of its own."""
        like = own.like or near
        if like not in self.blocks:
            raise InfeasibleError(
                f"collectives.like = {like!r}: no such kind of GPU", f"{', '.join(self.blocks)} are known"
            )
        block = dict(self.blocks[like])
        if isinstance(block["nccl"], str):
            block["nccl"] = self.blocks[block["nccl"]]["nccl"]
        given = {"nccl": own.nccl, "engines": own.engines}
        return _architecture(like, _over(block, given), self.blocks)

    def _named_or_near(self, network: Network, gpu: str) -> Architecture:
        model = str(network.places[gpu].get("model", "")).lower()
        for prefix, name in self.gpus.items():
            if model.startswith(prefix):
                return self.architectures[name]
        rate = network.nvlink_bytes_per_s(gpu)
        return self.architectures[min(self.nvlink_stand_ins, key=lambda stand_in: abs(stand_in[0] - rate))[1]]

    def nvlink_bytes_per_s(self, network: Network, gpu: str) -> float:
        """The NVLink rate by which generations of GPUs are told apart: that of its kind, however many links
        this machine has; of a GPU that no file names the machine's own.
        """
        own = network.nvlink_bytes_per_s(gpu)
        if not own or not str(network.places[gpu].get("model", "")).lower().startswith(tuple(self.gpus)):
            return own
        kind = self.architecture(network, gpu).name
        return next(rate for rate, name in self.nvlink_stand_ins if name == kind) or own


def collectives_folder() -> Path:
    """Where the YAML files with the shipped parameters are."""
    return topologies() / "collectives"


@cache
def default_parameters() -> Parameters:
    """The shipped parameters, read once."""
    import yaml

    text = {
        path.stem: yaml.safe_load(path.read_text()) for path in sorted(collectives_folder().glob("*.yaml"))
    }
    return parameters_of(text)


def parameters_of(files: Mapping[str, Any]) -> Parameters:
    """Parameters from the parsed files: `inside.yaml` (per kind of GPU), `across.yaml` (media, islands), and
    `mnnvl.yaml` (kernels over NVLink between servers) where it is there.
    """
    intra_node, inter_node = files["inside"], files["across"]
    blocks = intra_node["architectures"]
    architectures = {name: _architecture(name, block, blocks) for name, block in blocks.items()}
    between_servers = files.get("mnnvl")
    if between_servers:
        for name in between_servers["architectures"]:
            architectures[name] = _with_kernels(architectures[name], between_servers)
    gpus = {gpu: name for name, block in blocks.items() for gpu in block["gpus"]}
    stand_ins = tuple((float(block["nvlink_bytes_per_s"]), name) for name, block in blocks.items())
    ordered = dict(sorted(gpus.items(), key=lambda item: -len(item[0])))
    provenance = {name: block["provenance"] for name, block in blocks.items()}
    provenance |= {name: block["provenance"] for name, block in inter_node.items()}
    if between_servers:
        provenance["mnnvl"] = between_servers["provenance"]
    media = {name: block for name, block in inter_node["media"].items() if name != "provenance"}
    latencies = {
        kind: (float(least), float(most))
        for kind, (least, most) in inter_node["latencies"].items()
        if kind != "provenance"
    }
    return Parameters(architectures, ordered, stand_ins, media, inter_node, latencies, provenance, blocks)


def _over(block: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A block with given values in place of its own, at any depth."""
    merged = dict(block)
    for name, value in given.items():
        own = merged.get(name)
        merged[name] = _over(own, value) if isinstance(own, Mapping) and isinstance(value, Mapping) else value
    return merged


def _architecture(name: str, block: Mapping[str, Any], blocks: Mapping[str, Any]) -> Architecture:
    nccl = block["nccl"] if not isinstance(block["nccl"], str) else blocks[block["nccl"]]["nccl"]
    return Architecture(
        name,
        str(block["medium"]),
        Nccl(
            ring={protocol: _filled(Protocol, values) for protocol, values in nccl["ring"].items()},
            local_bytes_per_s=float(nccl["local_bytes_per_s"]),
            through_host_efficiency=float(nccl.get("through_host_efficiency", 1.0)),
            switch=_filled(SwitchReduction, nccl["switch"]) if nccl.get("switch") else None,
            direct=_filled(Direct, nccl["direct"]),
        ),
        {
            engine: EngineAllReduce(
                {kernel: _filled(EngineKernel, values) for kernel, values in parts["kernels"].items()},
                {
                    int(ranks): tuple((str(kernel), float(to_bytes)) for kernel, to_bytes in steps)
                    for ranks, steps in parts["choice"].items()
                },
                float(parts["eager_launch_s"]),
            )
            for engine, parts in block["engines"].items()
        },
    )


def _with_kernels(architecture: Architecture, block: Mapping[str, Any]) -> Architecture:
    """A kind of GPU with the kernels over NVLink between servers beside those that engines have there."""
    kernels = {kernel: _filled(EngineKernel, values) for kernel, values in block["kernels"].items()}
    one_shot, two_shot = kernels
    none = EngineAllReduce({}, {}, float(block["eager_launch_s"]))
    engines = dict(architecture.engines)
    for engine, largest in block["choice"].items():
        own = engines.get(engine, none)
        choice = {
            int(ranks): (
                *own.choice.get(int(ranks), ()),  # within a server, where they can be used, they come first
                (one_shot, float(block["one_shot_bytes"]) / int(ranks) + 1.0),
                (two_shot, float(to_bytes)),
            )
            for ranks, to_bytes in largest.items()
        }
        engines[engine] = EngineAllReduce(
            {**own.kernels, **kernels}, {**own.choice, **choice}, own.eager_launch_s
        )
    return replace(architecture, engines=engines)


def _filled(kind: type[_Block], values: Mapping[str, Any]) -> _Block:
    known = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    unknown = set(values) - known
    if unknown:
        raise InfeasibleError(
            f"{', '.join(sorted(unknown))} is no parameter of {kind.__name__}; {', '.join(sorted(known))} are"
        )
    missing = sorted(name for name in known if name not in values and _has_no_default(kind, name))
    if missing:
        raise InfeasibleError(f"{kind.__name__} needs {', '.join(missing)}; {', '.join(values)} are given")
    return kind(**{name: float(value) for name, value in values.items()})


def _has_no_default(kind: type[_Block], name: str) -> bool:
    return any(one.name == name and one.default is MISSING for one in fields(kind))  # type: ignore[arg-type]
