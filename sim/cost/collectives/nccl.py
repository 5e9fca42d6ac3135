"""NCCL: which algorithm and protocol it runs, and how long that takes alone.

The rule is NCCL's own (`src/graph/tuning.cc`): of all algorithms and protocols that the ranks allow, the
one with the least latency + size / bandwidth. The shape is NCCL's too: a base per protocol, a hop per step
of a ring and per level of a tree, a bandwidth per protocol, tables that correct trees at middle sizes.
Inside an island the constants are fitted to measurements per kind of GPU, because NCCL's planning constants
are up to 2x off there; between islands they are NCCL's.

* LL and LL128 write flags beside the data: no waiting for memory, but 8 of 16 and 120 of 128 bytes are
  payload. LL128 needs 128-byte stores that arrive whole, which NVLink gives and PCIe does not.
* NVLS adds in the switch; it needs a reducing switch under all ranks and is used for all-reduce.
* NVLS tree and tree join islands over the rails; a ring over islands pays the network at every crossing.
* Over TCP every crossing is a socket hop; the protocols differ little beside it and one stands for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sim.cost.collectives import groups
from sim.cost.collectives.curves import Curve
from sim.cost.collectives.demands import Load, load_per_byte
from sim.cost.collectives.parameters import PROTOCOLS, Architecture, Nccl, Parameters, Protocol
from sim.cost.collectives.path_latency import Crossing, at_once, crossing, ring_crossings, with_path
from sim.cost.network import Network

SWITCH_CROSSINGS = 2
"""Times that data crosses the switch one after the other: read and added there, then sent to all."""

RING_STEPS = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "broadcast": 1}
"""Times round the ring, less one step each."""


def candidates(
    network: Network, op: str, ranks: tuple[str, ...], parameters: Parameters
) -> tuple[Curve, ...]:
    """Every algorithm and protocol that NCCL could run on these ranks."""
    return tuple(_candidates(network, op, ranks, parameters))


def _candidates(network: Network, op: str, ranks: tuple[str, ...], parameters: Parameters) -> Iterator[Curve]:
    # Grouped sends have one curve wherever they go; rings, switches and trees have others within one island
    # than over several, as NCCL plans one graph within a node and another between nodes.
    architecture = parameters.architecture(network, ranks[0])
    found = groups.islands(network, ranks)
    if op in ("all_to_all", "send_recv"):
        yield _direct(network, op, ranks, found, architecture.nccl, parameters)
        return
    if len(found) == 1:
        yield from _intra_node_rings(network, op, ranks, architecture, parameters)
        yield from _switch(network, op, ranks, architecture, parameters)
        if op == "all_reduce":
            yield from _trees(network, ranks, found, architecture, parameters)
        return
    yield from _inter_node_rings(network, op, ranks, found, architecture, parameters)
    if op == "all_reduce":
        yield from _trees(network, ranks, found, architecture, parameters)
        yield from _switch_trees(network, ranks, found, architecture, parameters)


def wire_s(network: Network, load: Load) -> float:
    """Seconds per byte of message on the busiest link."""
    return max(share / network.capacity[link] for link, share in load.items())


def _nvlink_and_rest(network: Network, load: Load) -> tuple[float, float]:
    """Seconds per byte of message on the busiest NVLink, and on the busiest of all other links."""
    nvlink: Load = {}
    rest: Load = {}
    for link, share in load.items():
        kinds = {network.kind(end) for end in network.ends[link]}
        (nvlink if kinds <= {"gpu", "crossbar", "nvswitch"} else rest)[link] = share
    return (wire_s(network, nvlink) if nvlink else 0.0), (wire_s(network, rest) if rest else 0.0)


def _slowest_medium(network: Network, order: tuple[str, ...]) -> str:
    """The medium of a ring's slowest kind of hop."""
    rank = {"local": -1, "nvlink": 0, "pcie": 1, "host": 2, "infiniband": 3, "roce": 3, "efa": 3, "tcp": 4}
    paths = [network.path(here, there) for here, there in zip(order, (*order[1:], order[0]), strict=True)]
    return max((path.medium for path in paths), key=rank.__getitem__)


def _allowed(protocol: str, medium: str) -> bool:
    return protocol != "LL128" or medium == "nvlink"


def _intra_node_rings(
    network: Network, op: str, ranks: tuple[str, ...], architecture: Architecture, parameters: Parameters
) -> Iterator[Curve]:
    n = len(ranks)
    load = load_per_byte(network, op, "ring", ranks)
    order = groups.rings(network, ranks)[0]
    medium = _slowest_medium(network, order)
    crossings = ring_crossings(network, order, parameters)
    turns = medium == "pcie" and any(
        network.kind(end) == "host" for link in load for end in network.ends[link]
    )
    steps = RING_STEPS[op] * (n - 1)
    sent = steps / n if op != "broadcast" else 1.0
    busiest_s = wire_s(network, load)
    for name in PROTOCOLS:
        if not _allowed(name, medium):
            continue
        protocol = architecture.nccl.ring.get(name)
        # A fit holds for the medium on which it was measured; another medium lends its hop and its rates.
        if protocol is None or medium not in ("nvlink", "pcie") or _foreign(architecture, medium):
            protocol = _borrowed(parameters.media[medium][name], protocol)
        hop_s = with_path(protocol.hop_s, crossings)
        efficiency = protocol.efficiency * (architecture.nccl.through_host_efficiency if turns else 1.0)
        # The slower of links and kernel; a rank's copy of its own n-th comes on top, as it passes no link.
        pace_s = max(busiest_s / efficiency, sent / protocol.bytes_per_s)
        aside_s = 1.0 / n / architecture.nccl.local_bytes_per_s
        yield Curve(
            "ring",
            name,
            tuple(load),
            tuple(share * protocol.wire for share in load.values()),
            busiest_s * protocol.wire,
            protocol.base_s + steps * hop_s,
            pace_s + aside_s,
            steps * protocol.slice_s,
            n * protocol.slice_bytes,
            protocol.fill_s,
            protocol.fill_bytes,
            rated_s=busiest_s / efficiency,
            aside_s=aside_s,
        )


def _foreign(architecture: Architecture, medium: str) -> bool:
    """True where the ring's medium is not the one that this kind of GPU was measured on."""
    return medium != architecture.medium


def _borrowed(values: Mapping[str, Any], own: Protocol | None) -> Protocol:
    """The protocol of a medium without measurements on this GPU: the medium's hop, the GPU's own base."""
    base_s = own.base_s if own is not None else float(values["base_s"])
    rest = {name: float(value) for name, value in values.items() if name != "base_s"}
    return Protocol(base_s=base_s, **rest)


def _switch(
    network: Network, op: str, ranks: tuple[str, ...], architecture: Architecture, parameters: Parameters
) -> Iterator[Curve]:
    switch = architecture.nccl.switch
    if op == "broadcast" or switch is None or len(ranks) < 3 or not network.reduces(ranks):
        return
    load = load_per_byte(network, op, "nvls", ranks)
    start_s = switch.base_s + switch.rank_s * len(ranks)
    pace_s = 1.0 / (switch.efficiency * network.nvlink_bytes_per_s(ranks[0]))
    yield Curve(
        "nvls",
        "Simple",
        tuple(load),
        tuple(load.values()),
        wire_s(network, load),
        at_once(start_s, [_across_switch(network, ranks, parameters)], SWITCH_CROSSINGS),
        pace_s,
        fill_s=switch.fill_s + switch.fill_rank_s * len(ranks),
        fill_bytes=switch.fill_bytes * len(ranks),
        rated_s=pace_s,
    )


def _across_switch(network: Network, ranks: tuple[str, ...], parameters: Parameters) -> Crossing:
    """The way from one GPU to another over their NVLink switch."""
    return crossing(network.path(ranks[0], ranks[1]), parameters)


def chosen_by_rule(curve: Curve, op: str, ranks: int, architecture: Architecture) -> bool:
    """False for what NCCL can be forced to do and does not choose: NVLS in small groups or for other ops
    than sums to all.
    """
    if curve.algorithm == "nvls":
        return (
            op == "all_reduce"
            and architecture.nccl.switch is not None
            and ranks >= architecture.nccl.switch.least_ranks
        )
    # A tree within one island has its plateau from the first byte on: NCCL can run it and never picks it.
    return not (curve.algorithm == "tree" and curve.plateau_bytes == 0.0)


def _over_network(
    found: tuple[tuple[str, ...], ...], network: Network, parameters: Parameters
) -> Callable[[float], float]:
    """What a crossing between islands takes here, of NCCL's constant for it.

    A transport's `hop_s` stands in place of the constant of a tree's LL: what it has more is added to every
    constant; what it has less takes each down in proportion, and not below the latency of the path that it
    contains.
    """
    own_s = float(parameters.inter_node["nccl"]["tree"]["LL"]["net_hop_s"])
    given_s = network.transport_hop_s or own_s
    heads = groups.rails(network, found)[0] if len(found) > 1 else ()
    crossings = ring_crossings(network, heads, parameters) if heads else []
    contained_s = max((one.contained_s for one in crossings), default=0.0)

    def hop_s(constant_s: float) -> float:
        if given_s >= own_s:
            taken_s = constant_s + (given_s - own_s)
        else:
            taken_s = max(constant_s * given_s / own_s, min(constant_s, contained_s))
        return with_path(taken_s, crossings)

    return hop_s


def _trees(
    network: Network,
    ranks: tuple[str, ...],
    found: tuple[tuple[str, ...], ...],
    architecture: Architecture,
    parameters: Parameters,
) -> Iterator[Curve]:
    constants = parameters.inter_node["nccl"]
    net_hop = _over_network(found, network, parameters)
    load = load_per_byte(network, "all_reduce", "tree", ranks)
    busiest_s = wire_s(network, load)
    longest = max(len(group) for group in found)
    levels = (len(found) - 1).bit_length() if len(found) > 1 else 0
    order = groups.rings(network, found[0])[0]
    medium = _slowest_medium(network, order) if longest > 1 else "nvlink"
    inside = ring_crossings(network, order, parameters) if longest > 1 else []
    tcp = network.inter_node == "tcp" and len(found) > 1
    for name in PROTOCOLS if not tcp else ("LL",):
        if not _allowed(name, medium):
            continue
        tree = constants["tree"][name]
        hop_s = with_path(tree["hop_s"] if medium == "nvlink" else tree["pcie_hop_s"], inside)
        # Up and down again: along the chain of the longest island, and the tree's levels between islands.
        alpha_s = tree["base_s"] + 2.0 * ((longest - 1) * hop_s + levels * net_hop(tree["net_hop_s"]))
        rate = min(1.0 / busiest_s * 2.0 * tree["efficiency"], constants["tree_bytes_per_s"])
        if name == "LL":
            rate = min(rate, _low_latency_rate(constants, len(found)))
        wire = 1.0 if tcp else constants["wire"][name]
        yield Curve(
            "tree",
            name,
            tuple(load),
            tuple(share * wire for share in load.values()),
            busiest_s * wire,
            alpha_s,
            0.0 if tcp else 2.0 / rate,
            corrections=() if tcp else tuple(constants["tree_corrections"][name]),
            fill_s=0.0 if tcp or name == "LL" else max(levels - 1, 0) * constants["level_fill_s"],
            fill_bytes=constants["level_fill_bytes"],
            plateau_bytes=float("inf") if len(found) > 1 else 0.0,
            rated_s=0.0 if tcp else busiest_s / tree["efficiency"],
        )


def _low_latency_rate(constants: Mapping[str, Any], islands: int) -> float:
    """The most that LL reaches, bytes/s of bus bandwidth, by number of islands."""
    rates = constants["low_latency_bytes_per_s"]
    return float(rates[min(islands, len(rates)) - 1])


def _inter_node_rings(
    network: Network,
    op: str,
    ranks: tuple[str, ...],
    found: tuple[tuple[str, ...], ...],
    architecture: Architecture,
    parameters: Parameters,
) -> Iterator[Curve]:
    constants = parameters.inter_node["nccl"]
    net_hop = _over_network(found, network, parameters)
    n = len(ranks)
    load = load_per_byte(network, op, "ring", ranks)
    nvlink_s, rest_s = _nvlink_and_rest(network, load)
    steps = RING_STEPS[op] * (n - 1)
    crossings = 2 * len(found) if op == "all_reduce" else len(found) - 1
    sent = steps / n if op != "broadcast" else 1.0
    longest = max(len(group) for group in found)
    order = groups.rings(network, found[0])[0]
    medium = _slowest_medium(network, order) if longest > 1 else "nvlink"
    inside = ring_crossings(network, order, parameters) if longest > 1 else []
    tcp = network.inter_node == "tcp"
    for name in PROTOCOLS if not tcp else ("LL",):
        if not _allowed(name, medium):
            continue
        ring = constants["ring"][name]
        hop_s = with_path(ring["hop_s"] if medium == "nvlink" else ring["pcie_hop_s"], inside)
        # A chunk's way round the ring: so many of its steps cross to another island, the others are hops
        # within one, and none takes less than posting it.
        alpha_s = ring["base_s"] + (steps - crossings) * max(hop_s, ring["post_s"])
        alpha_s += crossings * net_hop(ring["net_hop_s"])
        wire = 1.0 if tcp else constants["wire"][name]
        pace_s = rated_s = max(nvlink_s / ring["efficiency"], rest_s / ring["net_efficiency"])
        aside_s = 1.0 / n / architecture.nccl.local_bytes_per_s
        if name == "LL" and not tcp:
            pace_s = max(pace_s, sent / _low_latency_rate(constants, len(found)))
        yield Curve(
            "ring",
            name,
            tuple(load),
            tuple(share * wire for share in load.values()),
            max(nvlink_s, rest_s) * wire,
            alpha_s,
            pace_s + aside_s,
            fill_s=0.0 if tcp else steps * ring["step_fill_s"],
            fill_bytes=n * ring["step_fill_bytes"],
            rated_s=rated_s,
            aside_s=aside_s,
        )


def _switch_trees(
    network: Network,
    ranks: tuple[str, ...],
    found: tuple[tuple[str, ...], ...],
    architecture: Architecture,
    parameters: Parameters,
) -> Iterator[Curve]:
    switch = architecture.nccl.switch
    if switch is None or network.inter_node == "tcp" or len({len(group) for group in found}) > 1:
        return
    constants = parameters.inter_node["nccl"]
    net_hop = _over_network(found, network, parameters)
    if any(not 2 <= len(group) <= constants["nvls_tree"]["most_ranks"] for group in found):
        return
    if not all(network.reduces(group) for group in found):
        return
    own = constants["nvls_tree"]
    load = load_per_byte(network, "all_reduce", "nvls_tree", ranks)
    levels = (len(found) - 1).bit_length()
    rate = own["efficiency"] * switch.efficiency * network.nvlink_bytes_per_s(ranks[0])
    busiest_s = wire_s(network, load)
    yield Curve(
        "nvls_tree",
        "Simple",
        tuple(load),
        tuple(load.values()),
        busiest_s,
        at_once(own["base_s"], [_across_switch(network, found[0], parameters)], SWITCH_CROSSINGS)
        + 2.0 * levels * net_hop(own["net_hop_s"]),
        1.0 / rate,
        fill_s=switch.fill_s
        + switch.fill_rank_s * len(found[0])
        + max(levels - 1, 0) * constants["level_fill_s"],
        fill_bytes=constants["level_fill_bytes"],
        rated_s=1.0 / rate,
    )


def _direct(
    network: Network,
    op: str,
    ranks: tuple[str, ...],
    found: tuple[tuple[str, ...], ...],
    nccl: Nccl,
    parameters: Parameters,
) -> Curve:
    direct = nccl.direct
    n = len(ranks)
    load = load_per_byte(network, op, "direct", ranks)
    busiest_s = wire_s(network, load)
    pair = op == "send_recv"
    alpha_s = direct.base_s + (0.0 if pair else direct.rank_s * n)
    efficiency = nccl.ring["Simple"].efficiency if pair else direct.efficiency
    channel_s = 0.0
    if len(found) > 1:
        constants = parameters.inter_node["nccl"]
        alpha_s += _over_network(found, network, parameters)(constants["direct"]["net_hop_s"])
        efficiency = constants["direct"]["efficiency"]
        if pair and len(found) > 2:
            channel_s = 1.0 / constants["direct"]["channel_bytes_per_s"]
    else:
        alpha_s = at_once(
            alpha_s, [crossing(network.path(ranks[0], other), parameters) for other in ranks[1:]]
        )
    local_s = 0.0 if pair else 1.0 / n / direct.local_bytes_per_s
    return Curve(
        "direct",
        "Simple",
        tuple(load),
        tuple(load.values()),
        busiest_s,
        alpha_s,
        max(busiest_s / efficiency, channel_s) + local_s,
        fill_s=direct.fill_s,
        fill_bytes=direct.fill_bytes,
        rated_s=busiest_s / efficiency,
        aside_s=local_s,
    )
