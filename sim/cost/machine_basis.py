"""Whether a machine is as it was measured, and how far off one may be whose GPUs talk over PCIe.

Two servers with the same cards and the same slots differ by a factor of ten in what their root complexes pass
from GPU to GPU (`l40s-x8` and `l40s-12`). So a server that is described, or idealised, has the best case, and
the spread of measured ones as a band: `topologies/collectives/pcie_boxes.yaml`. GPUs that only NVLink joins
have no such band.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from sim.cost.collectives.direct_rings import direct_rings
from sim.cost.collectives.parameters import collectives_folder
from sim.cost.network import Network
from sim.inputs.topology import Topology
from sim.results.basis import SIZES

SPANS = ("one PCIe switch", "one socket", "both sockets")
Band = tuple[float, float]


@dataclass(frozen=True, slots=True)
class MachineBasis:
    """`kind`: `measured` and `idealised` as the topology says, with its source, or `described`. `span` is
    how far apart over PCIe the GPUs are, None where NVLink joins those of every server; `bands` then has by
    the largest size of a message what measured servers take over what this one does, lowest and highest.
    """

    kind: Literal["measured", "idealised", "described"]
    source: str = ""
    span: str | None = None
    bands: Mapping[float, Band] | None = None

    def band(self, n_bytes: float) -> Band | None:
        """That of a collective of so many bytes."""
        if self.bands is None:
            return None
        return next(band for most, band in sorted(self.bands.items()) if n_bytes <= most)

    def __str__(self) -> str:
        return f"{self.kind}: {self.source}" if self.source else self.kind

    @property
    def told(self) -> str:
        """The band of large messages in words; empty without one."""
        if self.bands is None:
            return ""
        low, high = self.bands[max(self.bands)]
        return (
            f"the machine is {self.kind}, and has the best case of GPUs over PCIe on {self.span}: above 1 MB "
            f"measured servers take {low:g} to {high:g} times as long"
        )


def machine_basis(
    topology: Topology, ranks: int | None = None, network: Network | None = None
) -> MachineBasis:
    """What a machine rests on; of its first `ranks` GPUs. `network` is that of the topology, where it is at
    hand.
    """
    kinds = [topology, *topology.systems.values()]
    said = [one for one in kinds if one.basis is not None]
    kind: Literal["measured", "idealised", "described"] = "described"
    if said and (topology.basis is not None or len(said) == len(topology.systems)):
        kind = "idealised" if any(one.basis == "idealised" for one in said) else "measured"
    source = "; ".join(
        dict.fromkeys(one.provenance["basis"].source for one in said if "basis" in one.provenance)
    )
    if kind == "measured" and topology.domain not in (None, topology.gpus_per_node):
        kind = "described"
        source = f"NVLink domains of {topology.domain} GPUs, which the measured machine has not; {source}"
    if kind == "measured":
        return MachineBasis(kind, source)
    network = network or Network(topology.graph)
    span = pcie_span(network, network.gpus[:ranks])
    return MachineBasis(kind, source, span, _bands()[span] if span is not None else None)


def pcie_span(network: Network, ranks: Sequence[str]) -> str | None:
    """How far apart GPUs of one server are over PCIe: below one switch, on one socket, or on both. None
    where no two talk over PCIe.
    """
    farthest = -1
    last: dict[int, str] = {}
    first: dict[int, str] = {}
    for rank in ranks:
        node = network.node_of[rank]
        for other in {first.setdefault(node, rank), last.get(node, rank)} - {rank}:
            path = network.path(other, rank)
            if path.medium in ("pcie", "host"):
                crossed = {kind for kind, _ in path.crossed}
                farthest = max(farthest, 2 if "cpu" in crossed else 1 if "host" in crossed else 0)
        last[node] = rank
    return SPANS[farthest] if farthest >= 0 else None


def rings_stay_on_links(network: Network, ranks: Sequence[str]) -> bool:
    """Whether the GPUs of every server have rings over direct links, as those of a DGX-1's cube mesh, where
    not every GPU is wired to every other.
    """
    beside: dict[int, list[str]] = {}
    for rank in ranks:
        beside.setdefault(network.node_of[rank], []).append(rank)
    return all(len(gpus) > 2 and direct_rings(network, gpus) for gpus in beside.values())


def pcie_band(span: str, size: str | None = None) -> Band:
    """What measured servers take over the best case of GPUs so far apart, for messages of a class of sizes
    (`sim.results.basis.SIZES`), or the widest of all.
    """
    bands = _bands()[span]
    if size is not None:
        return bands[SIZES[size]]
    return min(low for low, _ in bands.values()), max(high for _, high in bands.values())


@cache
def _bands() -> dict[str, dict[float, Band]]:
    import yaml

    written = yaml.safe_load((collectives_folder() / "pcie_boxes.yaml").read_text())["pcie"]
    return {
        span: {float(most): (float(low), float(high)) for most, (low, high) in written[span].items()}
        for span in SPANS
    }
