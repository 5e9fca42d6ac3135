"""The limit of a GPU that follows from what a scenario lets GPUs and racks draw. No clock.

A rack's limit is shared out beforehand: what stands around its GPUs at their most comes off, and the rest is
the same for all GPUs that stand there, busy or not. So no rack is ever above its limit, whatever its replicas
do, and no replica waits for another one's watts; what one leaves no other takes.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.inputs.errors import InfeasibleError
from sim.inputs.power import GpuPower
from sim.scenario.scenario import Scenario


def power_cap_w(scenario: Scenario, gpus: Sequence[str]) -> float | None:
    """The limit of each of these GPUs, the least of theirs; None without any. InfeasibleError where GPUs or
    racks are not known well enough, or the limit leaves nothing for a step.
    """
    limits = scenario.power
    if limits is None or (limits.gpu_cap_w is None and limits.rack_cap_w is None):
        return None
    caps = {} if limits.gpu_cap_w is None else {"power.gpu_cap_w": limits.gpu_cap_w}
    if limits.rack_cap_w is not None:
        racks = dict.fromkeys(rack_of(scenario, gpu) for gpu in gpus)
        shares = [_share_w(scenario, limits.rack_cap_w, rack) for rack in racks]
        caps["power.rack_cap_w"] = min(shares)
    key = min(caps, key=lambda name: caps[name])
    for gpu in gpus:
        kind, power = _power(scenario, gpu, key)
        if caps[key] <= power.idle_w:
            raise InfeasibleError(
                f"{key.removeprefix('power.')} = {_written(scenario, key):g} leaves {caps[key]:.0f} W a GPU: "
                f"must be more than the {power.idle_w:.0f} W that a {kind} draws idle",
                _least(scenario, key, power, gpu),
            )
    return caps[key]


def _written(scenario: Scenario, key: str) -> float:
    return float(getattr(scenario.power, key.removeprefix("power.")))


def _least(scenario: Scenario, key: str, power: GpuPower, gpu: str) -> str:
    """A limit that leaves room: halfway between idle and the board's limit."""
    wanted = (power.idle_w + power.max_w) / 2.0
    if key == "power.gpu_cap_w":
        return f"gpu_cap_w: {wanted:.0f} W"
    fixed_w, factor = _rack(scenario, rack_of(scenario, gpu))
    return f"rack_cap_w: {(fixed_w + factor * wanted) / 1e3:.0f} kW leaves {wanted:.0f} W a GPU"


def rack_of(scenario: Scenario, gpu: str) -> int:
    """The rack of a GPU: its node where that is a rack of trays, else one of so many servers."""
    place = scenario.wired.graph.nodes[gpu]
    node = int(place.get("node", 0))
    if "tray" in place:
        return node
    per_rack = scenario.power.servers_per_rack if scenario.power else None
    if per_rack is None:
        raise InfeasibleError(
            "rack_cap_w needs racks, and the topology does not say how many servers stand in one",
            "power.servers_per_rack says it",
        )
    return node // per_rack


def _share_w(scenario: Scenario, cap_w: float, rack: int) -> float:
    fixed_w, factor = _rack(scenario, rack)
    return max((cap_w - fixed_w) / factor, 0.0)


def _rack(scenario: Scenario, rack: int) -> tuple[float, float]:
    """Watts of a rack that do not depend on its GPUs, and how many more it draws for one more of each."""
    graph, fixed_w, factors = scenario.wired.graph, 0.0, 0.0
    for gpu in (place for place, data in graph.nodes(data=True) if data["kind"] == "gpu"):
        if rack_of(scenario, gpu) != rack:
            continue
        kind, power = _power(scenario, gpu, "power.rack_cap_w")
        if not power.around_w:
            raise InfeasibleError(
                f"rack_cap_w needs what stands around a {kind}, and no host_w or server_w is known",
                f"topology.gpus.{kind}.power.server_w says it, or power.gpu_cap_w caps GPUs alone",
            )
        factor = power.around_factor
        fixed_w += sum(power.around_w.values()) * factor
        factors += factor
    return fixed_w, factors


def _power(scenario: Scenario, gpu: str, key: str) -> tuple[str, GpuPower]:
    kind = str(scenario.wired.graph.nodes[gpu]["model"])
    power = scenario.topology.gpu_models[kind].power
    if power is None:
        raise InfeasibleError(
            f"{key.removeprefix('power.')} needs the watts of a {kind}, which has no power constants",
            f"topology.gpus.{kind}.power gives them",
        )
    return kind, power
