"""Keys of the service around engines: replicas, routers, hand-overs, faults, and what a run is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sim.effects.power_caps import power_cap
from sim.effects.rules import Obstacle, Rule, Use, acted, because, given, no_sharing, plain, unless, where
from sim.inputs.faults import Fault
from sim.inputs.outages import KINDS, LOSE_CAPACITY
from sim.policy.routing import CentralQueue, Nearest, Random, RoundRobin, SessionAffine
from sim.results.key_words import ACTED, DidNotBind, NoEffect, Word

_beside_pools = because(lambda use: use.ran.scenario.pools, "beside pools; write replicas in each of them")
_one_kind = where(
    lambda use: len({use.ran.network.places[gpu]["model"] for gpu in use.ran.network.gpus}) > 1,
    "all GPUs are of this kind",
)


def _nothing_to_choose(use: Use) -> str:
    """A router that never refuses has no say over one replica."""
    if isinstance(use.ran.scenario.router, CentralQueue) or not _is_known(use.ran.scenario.router):
        return ""
    one = all(len(plans) < 2 for plans in use.ran.entries.values())
    return "there is one replica to choose from" if one else ""


def _one_replica(use: Use) -> str:
    one = all(len(plans) < 2 for plans in use.ran.entries.values())
    return "there is one replica, and a second copy has no other to go to" if one else ""


def _hedge(use: Use) -> Word:
    """A second copy is sent where a first token is late."""
    rows = use.ran.requests
    late_s = rows["first_token_s"] - rows["arrival_s"]
    if (late_s > use.value).any() or (rows["status"] != "finished").any():
        return ACTED
    return DidNotBind(
        f"{plain(use.value)} s, the latest first token came after {late_s.max(initial=0.0):.4g} s"
    )


def _is_known(router: object) -> bool:
    return type(router).__module__ == "sim.policy.routing"


def _no_hand_over(use: Use) -> str:
    return "" if use.ran.receivers else "no pool is set apart for prefill or decode"


def _one_receiver(use: Use) -> str:
    router = use.ran.scenario.hand_over.router
    if isinstance(router, CentralQueue) or not _is_known(router):
        return ""
    one = all(len(plans) < 2 for plans in use.ran.receivers.values())
    return "there is one decode replica to choose from" if one else ""


def _knob(use: Use) -> Word:
    """A knob of a router, beyond that there is something to choose."""
    hands_over = use.key[0] == "hand_over"
    router = use.ran.scenario.hand_over.router if hands_over else use.ran.scenario.router
    by_model = use.ran.receivers if hands_over else use.ran.entries
    if isinstance(router, Nearest) and not hands_over:
        hops = {plan.hops for plans in by_model.values() for plan in plans}
        if len(hops) == 1:
            return DidNotBind(f"all replicas are {hops.pop()} links away")
    most = max((len(plans) for plans in by_model.values()), default=0)
    if use.key[-1] == "choices" and isinstance(use.value, int) and use.value > most:
        return DidNotBind(f"{use.value:,}, there are {most:,} replicas")
    if use.key[-1] == "load_weight":
        return where(lambda use: use.ran.shares_prefixes, "no two prompts begin alike")(use)
    return ACTED


_reads_no_report = because(
    lambda use: isinstance(use.ran.scenario.router, RoundRobin | Random),
    "the router reads nothing that replicas report",
)


def _only_sessions(use: Use) -> str:
    sessions = isinstance(use.ran.scenario.router, SessionAffine) and (use.ran.requests["session"] >= 0).all()
    return "every request goes where its session is" if sessions else ""


def _has_tiers(use: Use) -> bool:
    return any(pool.engine.kv_tiers is not None for pool in use.ran.scenario.all_pools.values())


def _no_tiers(use: Use) -> str:
    return "" if _has_tiers(use) else "no engine has kv_tiers"


def _one_model(use: Use) -> str:
    models = {pool.model.name for pool in use.ran.scenario.all_pools.values()}
    if len(models) == 1:
        return f"every replica serves {models.pop()}"
    named = set(use.ran.requests["model"])
    return "" if named - models else "every request names the model that it is for"


def _fault(use: Use) -> Word:
    number = use.key[1]
    why = next((why for key, why in use.ran.faults_without_effect.items() if key[1] == number), None)
    if why is not None:
        return NoEffect(why)
    if isinstance(number, int) and _strikes_an_idle_engine(use, use.ran.scenario.faults[number]):
        return DidNotBind("no request was there when it failed, and none came while it was down")
    return ACTED


def _strikes_an_idle_engine(use: Use, fault: Fault) -> bool:
    """An engine that fails without work, and is back before the next request, loses a cache at most."""
    rows = use.ran.requests
    if not fault.stops_engines or use.ran.shares_prefixes or rows["resubmissions"].any():
        return False
    until_s = use.ran.end_s if fault.until_s is None else fault.until_s
    # One that waits in the router's line is routed later than it came.
    came = (rows["arrival_s"] < until_s) & ~(rows["routed_s"] < fault.at_s)
    aborted = rows["aborted_s"] == fault.at_s + use.ran.scenario.recovery.detection_s
    return not (came.any() or aborted.any())


def _until(use: Use) -> Word:
    word = _fault(use)
    if word == ACTED and use.value is not None and use.value >= use.ran.end_s:
        return DidNotBind(f"the run ended at {plain(use.ran.end_s)} s, before the repair")
    return word


def _outage(use: Use) -> Word:
    """Every key of what is stated, recorded or drawn acts where anything that comes of it is felt."""
    found = use.ran.outages_without_effect
    why = next((why for key, why in found.items() if use.key[: len(key)] == key), None)
    return ACTED if why is None else NoEffect(why)


def _seed_of_outages(use: Use) -> Word:
    outages = use.ran.scenario.outages
    if outages is None or outages.random is None:
        return NoEffect("no outage is drawn")
    return _outage(replace(use, key=("outages", "random")))


def _nothing_fails(use: Use) -> str:
    felt = [
        number
        for number, fault in enumerate(use.ran.scenario.faults)
        if fault.stops_engines and not any(key[1] == number for key in use.ran.faults_without_effect)
    ]
    return "" if felt or _felt_outages(use) else "no engine fails"


def _felt_outages(use: Use) -> set[str]:
    """Kinds of parts whose outages may have been felt; of a list, and of what is drawn, any kind."""
    outages, unfelt = use.ran.scenario.outages, use.ran.outages_without_effect
    if outages is None:
        return set()
    stated = {
        one.kind if not one.capacity else ""  # what is left of a link is used
        for number, one in enumerate(outages.at)
        if ("outages", "at", number) not in unfelt and not one.slower and one.kind != "hbm_stack"
    }
    listed = outages.recorded and ("outages", "recorded") not in unfelt
    drawn = outages.random is not None and ("outages", "random") not in unfelt
    return {*KINDS} if listed or drawn else stated - {""}


LINK_KEYS = ("reroute", "transport_timeout_s", "executor_timeout_s")
RESTART_KEYS = ("process_start_s", "weights_bytes_per_s", "weights_from", "graph_capture_s")


def _no_link_is_down(use: Use) -> str:
    felt = [
        number
        for number, fault in enumerate(use.ran.scenario.faults)
        if not (fault.stops_engines or fault.capacity)
        and not any(key[1] == number for key in use.ran.faults_without_effect)
    ]
    cut = _felt_outages(use).intersection((*LOSE_CAPACITY, "compute_tray"))
    return "" if felt or cut else "no link is down that carries traffic"


def _nothing_is_lost(use: Use) -> str:
    return _nothing_fails(use) and _no_link_is_down(use) and "no engine fails"


_nothing_restarts = because(
    lambda use: use.ran.scenario.recovery.on_loss == "repair",
    "engines are back as soon as they are repaired; write on_loss: restart, spare or shrink",
)


def _only_on_loss(word: str) -> Obstacle:
    return because(lambda use: use.ran.scenario.recovery.on_loss != word, f"on_loss is not {word}")


def _on_no_gpu(use: Use) -> str:
    return "" if any(group.plans[0].shards for group in use.ran.groups.values()) else "no GPU is at work"


def _time_limit(use: Use) -> Word:
    if use.ran.ended != "time limit" and use.value is not None:
        return DidNotBind(f"{plain(float(use.value))} s, the run ended at {plain(use.ran.end_s)} s")
    return ACTED


def _warmup(use: Use) -> Word:
    if isinstance(use.value, float | int) and int(use.value * len(use.ran.requests["request_id"])) == 0:
        return DidNotBind(f"{use.value:g} of {len(use.ran.requests['request_id'])} requests is none")
    return ACTED


def _without_nothing(use: Use) -> str:
    """Collectives cost nothing where none runs."""
    alone = all(
        group.ranks == 1 and group.engine.pipeline_parallel_size == 1 for group in use.ran.groups.values()
    )
    only = set(use.ran.scenario.without) <= {"collective_latency", "collective_bytes"}
    none = alone and not use.ran.receivers and not _has_tiers(use)
    return "no GPU sends anything to another" if only and none else ""


def _rack_leaves_less(use: Use) -> str:
    caps = [shard.power_cap_w for plan in use.ran.deployment.replicas for shard in plan.shards]
    most = max(cap for cap in caps if cap is not None)
    return f"power.rack_cap_w leaves a GPU {most:.0f} W" if most < use.value else ""


def _gpus_have_less(use: Use) -> str:
    cap_w = use.ran.scenario.power.gpu_cap_w if use.ran.scenario.power else None
    caps = {shard.power_cap_w for plan in use.ran.deployment.replicas for shard in plan.shards}
    return f"power.gpu_cap_w allows a GPU {cap_w:.0f} W" if cap_w is not None and caps == {cap_w} else ""


def _all_in_trays(use: Use) -> str:
    places = use.ran.network.places
    in_trays = all("tray" in places[gpu] for gpu in use.ran.network.gpus)
    return "nodes are racks of trays here" if in_trays else ""


def _all_given(use: Use) -> str:
    of_all = all(group.given for group in use.ran.groups.values())
    return given(use) if of_all else ""


def _rules(place: str, *obstacles: Callable[[Use], str]) -> dict[str, Rule]:
    return {
        place: unless(*obstacles),
        f"{place}.kind": unless(*obstacles),
        f"{place}.*": unless(*obstacles, then=_knob),
    }


SERVICE: dict[str, Rule] = {
    "nodes": acted,
    "replicas": unless(_beside_pools),
    "prices.gpu_hour": unless(_on_no_gpu),
    "prices.kwh": unless(_on_no_gpu),
    "prices.published": unless(_on_no_gpu),
    "power.gpu_cap_w": unless(_on_no_gpu, _rack_leaves_less, then=power_cap),
    "power.rack_cap_w": unless(_on_no_gpu, _gpus_have_less, then=power_cap),
    "power.servers_per_rack": unless(_on_no_gpu, _all_in_trays),
    "pools.*.replicas": acted,
    "pools.*.role": acted,
    "pools.*.gpu": _one_kind,
    "default_model": unless(_one_model),
    **_rules("router", _nothing_to_choose),
    "router_staleness_s": unless(_nothing_to_choose, _reads_no_report, _only_sessions),
    "hedge.after_s": unless(_one_replica, then=_hedge),
    "hand_over.kv": unless(_no_hand_over),
    "hand_over.first_token": unless(_no_hand_over),
    **_rules("hand_over.router", _no_hand_over, _one_receiver),
    **{key: unless(_no_tiers, no_sharing) for key in ("kv_reload", "kv_reload.kind", "kv_reload.*")},
    "kernels": unless(_all_given),
    "kernels.kind": unless(_all_given),
    "kernels.path": unless(_all_given),
    **{key: unless(_all_given) for key in ("placement", "placement.kind", "placement.*")},
    "faults[].at_s": _fault,
    "faults[].until_s": _until,
    "faults[].link": _fault,
    "faults[].place": _fault,
    "faults[].replica": _fault,
    "faults[].gpu": _fault,
    "faults[].node": _fault,
    "faults[].capacity": _fault,
    "outages.seed": _seed_of_outages,
    "outages.**": _outage,
    "on_failure": unless(_nothing_is_lost),
    **{f"recovery.{key}": unless(_no_link_is_down) for key in LINK_KEYS},
    **{f"recovery.{key}": unless(_nothing_is_lost) for key in ("detection_s", "on_loss", "cordon_trays")},
    **{f"recovery.{key}": unless(_nothing_is_lost, _nothing_restarts) for key in RESTART_KEYS},
    "recovery.spares": unless(_nothing_is_lost, _only_on_loss("spare")),
    "recovery.shrink_pause_s": unless(_nothing_is_lost, _only_on_loss("shrink")),
    "recovery.rejoin_pause_s": unless(_nothing_is_lost, _only_on_loss("shrink")),
    "time_limit_s": _time_limit,
    "warmup": _warmup,
    "cooldown": _warmup,
    "without": unless(_without_nothing),
    "without[]": unless(_without_nothing),
}
