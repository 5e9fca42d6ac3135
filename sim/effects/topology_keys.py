"""Keys of a machine: links, parts, wires, networks, transports, GPUs and their kernels."""

from __future__ import annotations

from collections.abc import Iterator

from sim.cost.kernels.kernels import formula
from sim.cost.kernels.timing import FORMATS, STAND_INS
from sim.effects.engine_keys import pays_for_launches
from sim.effects.prices import (
    prices_move,
    scaled_links,
    scaled_network,
    scaled_part,
    scaled_wire,
)
from sim.effects.ran import Group
from sim.effects.rules import Rule, Use, acted, because, kv_memory, one_server, unless, where
from sim.energy import nvlink_bytes
from sim.inputs.hardware import Gpu
from sim.inputs.parts import part_of, part_of_place
from sim.inputs.topology import MAX_NODES, Topology
from sim.results.key_words import ACTED, DidNotBind, NoEffect, Word


def _after(use: Use, block: str) -> str:
    """The step of the key behind `block`: a name in it."""
    return str(use.key[use.key.index(block) + 1])


def _uncrossed_link(use: Use) -> str:
    name = _after(use, "links")
    crossed = use.ran.bytes_by_type
    if name not in crossed:
        return "no wire of the topology is of this type"
    return "" if crossed[name] or _staged(use) else "no byte crossed a link of this type"


def _staged(use: Use) -> bool:
    """Without copies from GPU to GPU, what they would take is the least that a staged one takes: links are
    read that carry nothing.
    """
    return not use.ran.scenario.topology.peer_to_peer and use.ran.bytes_in_all > 0.0


def _idle_part(use: Use) -> str:
    name = _after(use, "parts")
    crossed = sum(
        crossed for place, crossed in use.ran.bytes_by_place.items() if part_of_place(place) == name
    )
    return "" if crossed or _staged(use) else f"no byte went to, from or through {name}"


def _ends_only(use: Use) -> str:
    """A way counts the latencies of what lies between its ends; GPUs and stores are ends."""
    kinds = {
        system.parts[name].kind for system in _systems(use) if (name := _after(use, "parts")) in system.parts
    }
    return "a way counts the latencies of what lies between its ends" if kinds == {"store"} else ""


def _systems(use: Use) -> Iterator[Topology]:
    topology = use.ran.scenario.topology
    return iter(topology.systems.values() or (topology,))


def _uncrossed_wire(use: Use) -> Word:
    topology = use.ran.scenario.topology
    number = use.key[use.key.index("wires") + 1]
    if topology.systems or not isinstance(number, int):
        return ACTED
    wire = topology.wires[number]
    parts = {part_of(wire.source), part_of(wire.to)}
    crossed = 0.0
    for one, other in use.ran.graph.edges():
        if {part_of_place(one), part_of_place(other)} == parts:
            crossed += use.ran.bytes_on(one, other)
    if not crossed and not _staged(use):
        why = f"no byte crossed a link from {wire.source} to {wire.to}"
        # Wired in another way, it may be chosen: how many links there are changes no path.
        return NoEffect(why) if "links" in use.key else DidNotBind(why)
    if "links" in use.key and not prices_move(use.ran, scaled_wire(number)):
        return DidNotBind(NEVER_NARROWEST)
    return ACTED


NEVER_NARROWEST = "what crossed it was held up by narrower links"
NEVER_WAITED = "no step waited for what crossed it"


def _of_links(use: Use) -> Word:
    """A rate or a latency of a type of link that carried bytes."""
    attribute = "latency_s" if use.key[-1] == "latency_s" else "bytes_per_s"
    if prices_move(use.ran, scaled_links(_after(use, "links"), attribute)):
        return ACTED
    return DidNotBind(NEVER_WAITED if attribute == "latency_s" else NEVER_NARROWEST)


def _of_places(use: Use) -> Word:
    """A rate or a latency of a part that carried bytes."""
    attribute = str(use.key[-1])
    if prices_move(use.ran, scaled_part(_after(use, "parts"), attribute)):
        return ACTED
    return DidNotBind(NEVER_WAITED if attribute == "latency_s" else NEVER_NARROWEST)


def _chooses_ways(use: Use) -> Word:
    """What a part lets through decides ways, also those of traffic that now goes elsewhere."""
    why = _idle_part(use)
    return DidNotBind(why) if why else ACTED


def _of_network(use: Use) -> Word:
    """The latency of the switches between servers."""
    number = use.key[use.key.index("scale_out") + 1]
    if use.ran.scenario.topology.systems or not isinstance(number, int):
        return ACTED
    return ACTED if prices_move(use.ran, scaled_network(number, "latency_s")) else DidNotBind(NEVER_WAITED)


def _turned_round(use: Use) -> bool:
    """Whether bytes crossed a PCIe switch, where ACS turns peers' traffic up."""
    places = use.ran.network.places
    return any(
        crossed and places.get(place, {}).get("kind") == "pcie_switch"
        for place, crossed in use.ran.bytes_by_place.items()
    )


def _count(use: Use) -> Word:
    """GPUs, NICs and hosts are there to be chosen among; of the others those count that carry something."""
    topology, name = use.ran.scenario.topology, _after(use, "parts")
    chosen = topology.systems or topology.parts[name].kind in ("gpu", "nic", "host", "store")
    if chosen or any(
        part_of_place(place) == name and crossed for place, crossed in use.ran.bytes_by_place.items()
    ):
        return ACTED
    return DidNotBind(f"no byte went to, from or through {name}")


def _nics(use: Use) -> int:
    """NICs on a network of the servers."""
    topology, number = use.ran.scenario.topology, use.key[use.key.index("scale_out") + 1]
    if topology.systems or not isinstance(number, int):
        return MAX_NODES
    return topology.nodes * len(topology.nics_of(topology.scale_out[number]))


def _one_switch(use: Use) -> str:
    topology, number = use.ran.scenario.topology, use.key[use.key.index("scale_out") + 1]
    if topology.systems or not isinstance(number, int):
        return ""
    return "one switch takes all NICs" if _nics(use) <= topology.scale_out[number].switch_ports else ""


def _switch_ports(use: Use) -> Word:
    if isinstance(use.value, int) and _nics(use) <= use.value:
        return DidNotBind(f"{use.value:,}, NICs {_nics(use):,}")
    return ACTED


def _no_traffic(use: Use) -> str:
    return "" if use.ran.bytes_in_all else "no byte crossed any link"


def _idle_nics(use: Use) -> str:
    topology = use.ran.scenario.topology
    nics = {name for name, part in topology.parts.items() if part.kind == "nic"}
    crossed = sum(n for place, n in use.ran.bytes_by_place.items() if part_of_place(place) in nics)
    return "" if crossed else "no byte went through a NIC"


def _other_transport(use: Use) -> str:
    used = use.ran.scenario.wired.inter_node
    return "" if _after(use, "transports") == used else f"the run goes over {used}"


def _engine_names_transport(use: Use) -> str:
    named = {pool.engine.inter_node for pool in use.ran.scenario.all_pools.values()} - {None}
    return f"engine.inter_node says {named.pop()}" if named else ""


# ---- GPUs


def _served_by(use: Use) -> list[Group]:
    """The pools whose engines run on this kind of GPU."""
    name = _after(use, "gpus")
    models = use.ran.gpu_rows.columns["model"]
    replicas = {
        int(replica)
        for row, replica in enumerate(use.ran.gpu_rows["replica"])
        if replica >= 0 and models[row] == name
    }
    return [
        group for group in use.ran.groups.values() if any(plan.index in replicas for plan in group.plans)
        and not group.given
    ]  # fmt: skip


def _unserved(use: Use) -> str:
    return "" if _served_by(use) else f"no engine runs on a GPU of kind {_after(use, 'gpus')}"


def _formats(group: Group) -> set[str]:
    """Number formats in which the kernels of these engines are asked for."""
    precision = group.pool.precision
    named = {
        precision.weights,
        precision.activations,
        precision.kv_cache,
        precision.attention or precision.activations,
    }
    named |= {precision.experts or precision.weights, precision.qkv_weights or precision.weights}
    return {str(name) for name in named}


def _unused_arithmetic(use: Use) -> str:
    wanted: set[str] = set()
    flops = set(use.ran.scenario.topology.gpu_models[_after(use, "gpus")].flops)
    for group in _served_by(use):
        for dtype in _formats(group):
            wanted.add(next((one for one in FORMATS[dtype].arithmetic if one in flops), ""))
    return "" if use.key[-1] in wanted else f"nothing is computed in {use.key[-1]}"


def _gpu(use: Use) -> Gpu:
    return use.ran.scenario.topology.gpu_models[_after(use, "gpus")]


def _of_pool(rule: Rule) -> Rule:
    """A rule of an engine, asked of the first pool that runs on this kind of GPU."""

    def asked(use: Use) -> Word:
        return rule(Use(use.ran, _served_by(use)[0], use.key, use.value))

    return asked


def _no_kernel_by_kernel(use: Use) -> str:
    for group in _served_by(use):
        engine = group.engine
        compiled = engine.backend == "vllm" and not engine.enforce_eager
        if (
            engine.host.launch_s is None
            and not compiled
            and pays_for_launches(Use(use.ran, group, use.key, 0))
        ):
            return ""
    return "no kernel was launched by itself; what PCIe allows is in the links"


def _hits_no_cache(use: Use) -> str:
    kernels = _gpu(use).kernels
    if kernels is None:
        return "no kernel of this GPU is held to its level-2 cache"
    for group in _served_by(use):
        for kind in _kinds(group):
            formats = getattr(kernels, kind)
            if isinstance(formats, dict) and any(getattr(one, "l2_share", 0.0) for one in formats.values()):
                return ""
    return "no kernel of this run is held to its level-2 cache"


def _other_kernels(use: Use) -> str:
    return "" if use.ran.scenario.kernels is formula else "the times of kernels are given by `kernels`"


def _kinds(group: Group) -> set[str]:
    """The kernels that the engines of a pool are made of."""
    latent = group.model.mla is not None
    kinds = {"gemm", "elementwise", "sampling"} | ({"moe"} if group.model.is_moe else set())
    return kinds | (
        {"mla_prefill", "mla_decode"}
        if latent
        else {"attention_prefill", "attention_decode", "attention_mixed"}
    )


WARM = "it is for kernels timed again and again on the same data, as benchmarks do"
LATENT = "latent attention has one vector a token, and its kernel no such part"
NEVER_READ: dict[tuple[str, str], str] = {
    ("gemm", "host_s"): WARM,
    ("gemm", "l2_share"): WARM,
    ("attention_decode", "l2_share"): WARM,
    ("attention_decode", "l2_time"): WARM,
    ("mla_decode", "l2_share"): WARM,
    ("mla_decode", "l2_time"): WARM,
    ("attention_decode", "flop_fraction"): "plain decodes are bound by memory",
    ("mla_decode", "s_per_sm_kv_token"): LATENT,
    ("mla_decode", "s_per_unshared_kv_token"): LATENT,
    ("mla_decode", "sm_kv_tokens"): LATENT,
    ("mla_decode", "split_s"): LATENT,
}


def _kernel(use: Use) -> Word:
    """A parameter of a kernel: `kernels.gemm.bf16.floor_s`, or under `kernels.engines.sglang`."""
    steps = [str(step) for step in use.key[use.key.index("kernels") + 1 :]]
    groups = _served_by(use)
    if steps[0] == "engines":
        engine, steps = steps[1], steps[2:]
        groups = [group for group in groups if group.engine.backend == engine]
        if not groups:
            return NoEffect(f"no engine runs the kernels of {engine}")
    kind, parameter = steps[0], steps[-1]
    if kind == "sustained_flop_fraction":
        return ACTED
    groups = [group for group in groups if kind in _kinds(group)]
    if not groups:
        return NoEffect(f"no model of this run has a kernel {kind}")
    why = NEVER_READ.get((kind, parameter))
    if why:
        return NoEffect(why)
    if len(steps) == 3:
        near = {
            other for group in groups for dtype in _formats(group) for other in (dtype, *STAND_INS[dtype])
        }
        if steps[1] not in near:
            return NoEffect(f"no kernel {kind} is asked for in {steps[1]}")
    return ACTED


_link = unless(_uncrossed_link, then=_of_links)
_part = unless(_idle_part)
_network = unless(one_server)
_transport = unless(one_server, _other_transport)
_wire = _uncrossed_wire
_on_gpu = unless(_unserved)


def _sends_nothing(use: Use) -> str:
    """NVLink takes joules for what crosses it."""
    crossed = nvlink_bytes(use.ran.scenario.wired.graph, use.ran.link_rows)
    return "" if crossed.get(_after(use, "gpus")) else "no byte crossed NVLink"


def _nothing_around(use: Use) -> str:
    """What cools and feeds a GPU's surroundings is told where these have watts."""
    power = use.ran.scenario.topology.gpu_models[_after(use, "gpus")].power
    told = power is not None and any(
        part is not None for part in (power.host_w, power.nic_w, power.switch_w, power.server_w)
    )
    return "" if told else "nothing around the GPU has watts, and its servers' are not told"


TOPOLOGY: dict[str, Rule] = {
    "": acted,
    "nodes": acted,
    "peer_to_peer": unless(_no_traffic),
    "acs": unless(_no_traffic, then=where(_turned_round, "no byte crossed a PCIe switch")),
    "inter_node": unless(one_server, _engine_names_transport),
    "collectives.like": unless(_no_traffic),
    "collectives.nccl.*": unless(_no_traffic),
    "collectives.engines.*": unless(_no_traffic),
    "domain": unless(_no_traffic),
    "domain_tiers": unless(_no_traffic),
    "nics_per_gpu": unless(_idle_nics),
    "own_graph": acted,
    "systems": acted,
    "links.*.bytes_per_s": _link,
    "links.*.efficiency": _link,
    "links.*.latency_s": _link,
    "parts.*.kind": acted,
    "parts.*.count": _count,
    "parts.*.model": acted,
    "parts.*.reduces": _part,
    "parts.*.forwards_peers": _chooses_ways,
    "parts.*.latency_s": unless(_idle_part, _ends_only, then=_of_places),
    "parts.*.bytes_per_s": unless(_idle_part, then=_of_places),
    "parts.*.transport": _chooses_ways,
    "wires[].source": _wire,
    "wires[].from": _wire,
    "wires[].to": _wire,
    "wires[].pattern": _wire,
    "wires[].of": _wire,
    "wires[].link": _wire,
    "wires[].links": _wire,
    "wires[].links[]": _wire,
    "scale_out[].of": _network,
    "scale_out[].link": _network,
    "scale_out[].rails": unless(one_server, _one_switch),
    "scale_out[].switch_ports": unless(one_server, then=_switch_ports),
    "scale_out[].down_ports": unless(one_server, _one_switch),
    "scale_out[].oversubscription": unless(one_server, _one_switch),
    "scale_out[].routing": unless(one_server, _one_switch),
    "scale_out[].latency_s": unless(one_server, then=_of_network),
    "scale_out[].reduces": _network,
    "transports.*.kind": _transport,
    "transports.*.hop_s": _transport,
    "transports.*.bytes_per_s": _transport,
    "gpus.*.hbm_bytes": unless(
        _unserved,
        because(
            lambda use: _gpu(use).visible_hbm_bytes is not None, "visible_hbm_bytes says what software sees"
        ),
        then=_of_pool(kv_memory),
    ),
    "gpus.*.visible_hbm_bytes": unless(_unserved, then=_of_pool(kv_memory)),
    "gpus.*.hbm_bytes_per_s": _on_gpu,
    "gpus.*.flops.*": unless(_unserved, _unused_arithmetic),
    "gpus.*.sms": _on_gpu,
    "gpus.*.l2_bytes": unless(_unserved, _other_kernels, _hits_no_cache),
    "gpus.*.pcie_generation": unless(_unserved, _no_kernel_by_kernel),
    "gpus.*.kernels.**": unless(_unserved, _other_kernels, then=_kernel),
    "gpus.*.power.nvlink_pj_per_bit": unless(_unserved, _sends_nothing),
    "gpus.*.power.fans": unless(_unserved, _nothing_around),
    "gpus.*.power.conversion": unless(_unserved, _nothing_around),
    "gpus.*.power.**": _on_gpu,
}
