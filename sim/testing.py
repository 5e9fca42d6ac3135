"""For scripts that bring rules of their own: try a scheduler, a router or a collective before a long run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from typing import Any

from sim.catalog import load_topology
from sim.cost.collectives.demands import OPS, Load
from sim.cost.collectives.send_graphs import Send, Writer, sends_of
from sim.cost.network import Network
from sim.inputs.errors import InfeasibleError, InputError, Problem, UnfinishedError
from sim.runtime.fabric.play_sends import alone_s
from sim.scenario.scenario import Scenario
from sim.simulate import Result, simulate

_BURST = {
    "arrivals": {"kind": "burst"},
    "prompt_tokens": {"kind": "uniform", "low": 1, "high": 600},
    "output_tokens": {"kind": "uniform", "low": 1, "high": 40},
    "requests": 24,
}
_SESSIONS = {
    "arrivals": {
        "kind": "sessions",
        "starts": {"kind": "poisson", "rate_per_s": 5},
        "turns": {"kind": "uniform", "low": 1, "high": 4},
        "tool_delay_s": 0.05,
    },
    "prompt_tokens": 100,
    "output_tokens": 20,
    "requests": 24,
}
_POISSON = {**_BURST, "arrivals": {"kind": "poisson", "rate_per_s": 40}}
_ALONE = {"arrivals": {"kind": "burst"}, "prompt_tokens": 3000, "output_tokens": 5, "requests": 1}

_ENGINES: Mapping[str, dict[str, Any]] = {
    "one long prompt": {"engine": {}, "workload": _ALONE},
    "few seats": {"engine": {"max_num_seqs": 4}, "workload": _BURST},
    "few KV blocks": {"engine": {"num_gpu_blocks_override": 90, "max_model_len": 1000}, "workload": _BURST},
    "arrivals during steps": {"engine": {}, "workload": _POISSON},
    "shared prefixes": {"engine": {}, "workload": {**_POISSON, "prefix": {"tokens": 64, "share": 0.5}}},
    "two batches in flight": {"engine": {"pipeline_parallel_size": 2}, "workload": _POISSON},
}
_FLEETS: Mapping[str, dict[str, Any]] = {
    "one replica": {"workload": _BURST},
    "three replicas": {"replicas": 3, "workload": _POISSON},
    "sessions": {"replicas": 3, "workload": _SESSIONS},
    "old reports": {"replicas": 3, "router_staleness_s": 0.1, "workload": _POISSON},
    "a failure": {
        "replicas": 2,
        "workload": _POISSON,
        "faults": [{"replica": 1, "at_s": 0.2, "until_s": 0.6}],
    },
}


def check_scheduler(rule: Callable[..., Any]) -> None:
    """Try a scheduling rule on small services; InputError names the first service and what went wrong.

    Every request must end with the tokens it asked for, a run must come out the same twice, and the same
    whether its steps are folded or played one by one: a rule that answers differently for the same engine,
    as one that counts its calls, does not.

    >>> from sim.policy.scheduling import PrefillFirst
    >>> check_scheduler(PrefillFirst())
    >>> check_scheduler(lambda engine: [])
    Traceback (most recent call last):
    sim.inputs.errors.InputError: engine.scheduler = <lambda>: one long prompt: 1 requests are open ...
    """
    for name, described in _ENGINES.items():
        engine = {**described["engine"], "scheduler": rule}
        _try("engine.scheduler", rule, name, {**described, "engine": engine})


def check_router(router: Callable[..., Any]) -> None:
    """Try a router on small services; InputError names the first service and what went wrong.

    >>> check_router(lambda request, replicas, random: request.request_id % len(replicas))
    >>> check_router(lambda request, replicas, random: 1)
    Traceback (most recent call last):
    sim.inputs.errors.InputError: router = <lambda>: one replica: chose 1 for request 0: must be a place ...
    """
    for name, described in _FLEETS.items():
        _try("router", router, name, {**described, "router": router})


_MACHINES: Mapping[str, tuple[str, int, int]] = {
    "two GPUs": ("a100-x4", 1, 2),
    "four GPUs wired to each other": ("a100-x4", 1, 4),
    "eight GPUs behind switches": ("nd-h100-v5", 1, 8),
    "two servers": ("nd-h100-v5", 2, 16),
}
"""Topology, servers, ranks."""
_MESSAGE_BYTES, _CHUNKS = 1e9, 64
_LATER = 0.1
"""By so much longer than their load may sends take for latencies, beside a chunk for each rank that fills the
pipeline (assumed; the shipped collectives stay below half of it).
"""


def check_collective(op: str, load: Callable[[Network, tuple[str, ...]], Load], sends: Writer) -> None:
    """Try a collective on small machines; InputError names the first machine and what went wrong.

    `load` gives the bytes on each link per byte of message, `sends` writes the same as explicit sends, cut
    into chunks. Both must put the same bytes on every link; every rank must hear, over sends that wait for
    each other, of all ranks whose bytes it needs; and alone the sends must take what the load says, but for
    filling the pipeline. A machine that both refuse (InfeasibleError) is passed over.

    >>> from sim.cost.collectives.demands import ALGORITHMS
    >>> from sim.cost.collectives.send_graphs import SEND_GRAPHS
    >>> check_collective("all_reduce", ALGORITHMS["all_reduce"]["ring"], SEND_GRAPHS["all_reduce"]["ring"])
    >>> check_collective("all_reduce", lambda network, ranks: {}, SEND_GRAPHS["all_reduce"]["ring"])
    Traceback (most recent call last):
    sim.inputs.errors.InputError: collective = <lambda>: two GPUs: link ... the load has 0 ...
    """
    label = getattr(load, "__qualname__", type(load).__qualname__)
    if op not in OPS:
        raise InputError(Problem(f"must be one of {', '.join(OPS)}", key="op", value=op))
    tried = 0
    for name, (topology, servers, ranks) in _MACHINES.items():
        network = Network(load_topology(topology, nodes=servers).graph)
        group = tuple(network.gpus[:ranks])
        try:
            shares = load(network, group)
            graph = sends_of(sends, network, _MESSAGE_BYTES, group, _CHUNKS)
        except InfeasibleError:
            continue
        tried += 1
        for what in _differences(op, network, group, shares, graph):
            raise InputError(Problem(f"{name}: {what}", key="collective", value=label))
    if not tried:
        what = f"refuses every group: must run on one of {', '.join(_MACHINES)}"
        raise InputError(Problem(what, key="collective", value=label))


def _differences(
    op: str, network: Network, ranks: tuple[str, ...], shares: Load, sends: tuple[Send, ...]
) -> Iterator[str]:
    """Where the two forms of a collective differ from each other, or from what it is for."""
    for link, share in shares.items():
        if link not in range(len(network.links)) or not (isfinite(share) and share >= 0.0):
            yield f"the load has {share!r} on link {link!r}: must be a number of a link, and at least 0 bytes"
            return
    sent: dict[int, float] = {}
    for send in sends:
        for link, n_bytes in send.load().items():
            sent[link] = sent.get(link, 0.0) + n_bytes
    for link in dict.fromkeys((*shares, *sent)):
        said, put = shares.get(link, 0.0), sent.get(link, 0.0) / _MESSAGE_BYTES
        if abs(said - put) > 1e-9 * max(said, put):
            where = f"link {network.links[link]}"
            yield f"{where}: the load has {said:.6g} bytes per byte of message, the sends have {put:.6g}"
    yield from _unheard(op, network, ranks, sends)
    each_s = (share * _MESSAGE_BYTES / network.capacity[link] for link, share in shares.items())
    flows_s = max(each_s, default=0.0)
    took_s = alone_s(network, sends)
    if not flows_s <= took_s * (1.0 + 1e-9):
        yield f"the sends take {took_s:.6g} s, less than the {flows_s:.6g} s that the load needs"
    if took_s > (1.0 + _LATER + len(ranks) / _CHUNKS) * flows_s:
        yield (
            f"in {_CHUNKS} chunks the sends take {took_s:.6g} s, the load says {flows_s:.6g} s: "
            "they must overlap, chunk by chunk, or the load is of another algorithm"
        )


def _unheard(op: str, network: Network, ranks: tuple[str, ...], sends: tuple[Send, ...]) -> Iterator[str]:
    """Ranks that no send tells of a rank whose bytes they need."""
    carried: list[frozenset[str]] = []  # by send: the ranks whose bytes may be in it
    heard = {rank: {rank} for rank in ranks}
    for send in sends:
        # A switch that adds or copies has several links in one send: bytes of all that one begins at reach
        # all that one ends at.
        ends = [network.ends[link] for link in send.links]
        known = frozenset({send.source, *(source for source, *_ in ends)}).union(
            *(carried[before] for before in send.after)
        )
        carried.append(known)
        for target in {send.target, *(place for _, *onward in ends for place in onward)}:
            heard.setdefault(target, set()).update(known)
    needed = ranks[:1] if op in ("broadcast", "send_recv") else ranks
    for rank in ranks[:2] if op == "send_recv" else ranks:
        missing = [other for other in needed if other not in heard[rank]]
        if missing:
            yield f"{rank} hears nothing of {missing[0]}, whose bytes it needs in {op}"


def _try(key: str, rule: Callable[..., Any], name: str, described: Mapping[str, Any]) -> None:
    scenario = Scenario.model_validate({"topology": "a100-x4", "model": "llama-3-8b", **described})
    label = getattr(rule, "__qualname__", type(rule).__qualname__)

    def wrong(what: str) -> InputError:
        return InputError(Problem(f"{name}: {what}", key=key, value=label))

    try:
        first, again, played = (simulate(scenario, fold=fold) for fold in (True, True, False))
    except UnfinishedError as error:
        raise wrong(error.reason.replace("\n", "; ")) from error
    except InputError as error:
        raise wrong("; ".join(problem.what for problem in error.problems)) from error
    for problem in _unserved(first):
        raise wrong(problem)
    if not first.requests.equals(again.requests):
        raise wrong("the same run came out differently the second time: must depend on what it is shown only")
    if not first.requests.equals(played.requests):
        raise wrong("folded and played steps differ: must answer the same for the same engine")


def _unserved(result: Result) -> Iterator[str]:
    rows = result.requests
    for status in rows["status"].unique().to_list():
        if status != "finished":
            yield f"{rows.filter(rows['status'] == status).height} requests are {status}"
