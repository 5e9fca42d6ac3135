"""Expert parallelism's traffic: dispatch of tokens to the ranks that hold their experts, and combine of the
results.

Three ways of doing it, as its libraries do (`ExchangeKernel.copies` says what is sent for one token):

* `rank`: once to every other rank that holds one of its experts, straight over NVLink. TensorRT-LLM's
  one-sided all-to-all; for ranks that share one NVLink domain.
* `expert`: once for each of its experts, straight from rank to rank, over NVLink inside a domain and over
  NICs between. DeepEP's low-latency kernels, for decode.
* `domain`: once to every other domain that holds one of its experts, over the sender's rail to the GPU at
  the same place there, which passes it on over NVLink to the ranks; inside the domain once to every rank.
  DeepEP's normal kernels, for prefill. Results come back the same way, added up where they leave the domain.

A phase takes a start-up (a base, and more per doubling of the ranks) and then as long as the busiest link
needs for its bytes at the share of its rate that the kernel reaches. Constants are in
`topologies/collectives/experts.yaml`. Where it stops: experts are taken to be spread evenly and chosen at
random, within the groups that a token is limited to; the bytes of scaling factors are in the shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import inf, log2
from typing import Literal, NamedTuple

from sim.cost.collectives.demands import Demand, Load, merged, pairs_demand, relay_beside, relayed_loads
from sim.cost.collectives.parameters import collectives_folder, default_parameters
from sim.cost.collectives.path_latency import Crossing, at_once, by_parts, longest_of
from sim.cost.expert_load import distinct_places
from sim.cost.network import Network
from sim.inputs.errors import InfeasibleError
from sim.inputs.model import GroupLimit

Phase = Literal["dispatch", "combine"]
Copies = Literal["rank", "expert", "domain"]


@dataclass(frozen=True, slots=True)
class Pace:
    """Start-up of one phase, and the shares of the payload rate of NVLink and of all other links that its
    bytes reach.
    """

    base_s: float
    doubling_s: float
    intra_domain: float
    inter_domain: float

    def latency_s(self, ranks: int) -> float:
        """Start-up of a phase over so many ranks."""
        return self.base_s + self.doubling_s * log2(max(ranks, 2))


@dataclass(frozen=True, slots=True)
class ExchangeKernel:
    """A library's kernel as measured on GPUs with so much NVLink, inside one domain or over several
    (`domains`: over how many, where that matters).
    """

    library: str
    copies: Copies
    spans_domains: bool
    domains: int
    nvlink_bytes_per_s: float
    dispatch: Pace
    combine: Pace

    def pace(self, phase: Phase) -> Pace:
        return self.dispatch if phase == "dispatch" else self.combine


class ExpertChoice(NamedTuple):
    """A token chooses `topk` of `experts` experts; with a `limit` out of some groups of them only."""

    experts: int
    topk: int
    limit: GroupLimit | None = None

    def distinct(self, places: float) -> float:
        """In how many of so many places the experts of one token are expected to lie."""
        return distinct_places(self.experts, self.topk, places, self.limit)


@dataclass(frozen=True, slots=True)
class Reach:
    """Where an exchange of one byte for every token of every rank goes: bytes on each link, and the seconds
    that the busiest NVLink, the busiest other link, and the busiest with all traffic need. `longest` is its
    longest way.
    """

    demand: Demand
    intra_domain_s: float
    inter_domain_s: float
    busiest_s: float
    longest: Crossing


@cache
def kernels() -> tuple[ExchangeKernel, ...]:
    """The shipped kernels, read once."""
    import yaml

    data = yaml.safe_load((collectives_folder() / "experts.yaml").read_text())
    return tuple(
        ExchangeKernel(
            str(block["library"]),
            block["copies"],
            bool(block["spans_domains"]),
            int(block.get("domains", 1)),
            float(block["nvlink_bytes_per_s"]),
            _pace(block["dispatch"]),
            _pace(block["combine"]),
        )
        for block in data["kernels"].values()
    )


def _pace(block: Mapping[str, float]) -> Pace:
    return Pace(*(float(block[name]) for name in ("base_s", "doubling_s", "inside", "across")))


def chosen(
    network: Network, ranks: Sequence[str], *, has_prefill: bool, library: str = "auto"
) -> ExchangeKernel:
    """The kernel for these ranks. `auto`: one-sided where an NVLink domain joins several servers; else
    DeepEP's low-latency kernels for decode and its normal ones for prefill.

    Raises InfeasibleError for a library that cannot reach all ranks.
    """
    one_domain = network.same_domain(ranks)
    if library == "auto":
        servers = {network.node_of[rank] for rank in ranks}
        if one_domain and (len(servers) > 1 or _domain_size(network, ranks[0]) > LARGEST_SERVER):
            library = "one_sided"
        else:
            library = "deepep_high_throughput" if has_prefill else "deepep_low_latency"
    named = [kernel for kernel in kernels() if kernel.library == library]
    if not named:
        known = ", ".join(sorted({kernel.library for kernel in kernels()}))
        raise InfeasibleError(f"library = {library!r}: must be one of {known}")
    fitting = [kernel for kernel in named if kernel.spans_domains != one_domain]
    if not fitting:
        raise InfeasibleError(
            f"{library} reaches only GPUs of one NVLink domain, and {ranks[0]} to {ranks[-1]} are in more",
            "deepep_low_latency and deepep_high_throughput go over NICs too",
        )
    # Nearest by NVLink rate, which tells GPU generations apart; among equals by the number of domains, as a
    # ratio: from 2 to 4 domains is as far as from 4 to 8.
    rate = default_parameters().nvlink_bytes_per_s(network, ranks[0])
    domains = len({network.domain(rank) or rank for rank in ranks})
    return min(
        fitting,
        key=lambda kernel: (abs(kernel.nvlink_bytes_per_s - rate), abs(log2(domains / kernel.domains))),
    )


def gathers(network: Network, ranks: Sequence[str], library: str) -> bool:
    """Whether all tokens go to all ranks, and every rank keeps those of its experts: vLLM's default
    (`allgather_reducescatter`), and what `auto` is for GPUs without NVLink, which the other kernels need.
    """
    if library == "auto":
        return network.nvlink_bytes_per_s(ranks[0]) == 0.0
    return library == "allgather_reducescatter"


LARGEST_SERVER = 16
"""GPUs; an NVLink domain with more is a rack."""


def _domain_size(network: Network, gpu: str) -> int:
    domain = network.domain(gpu)
    return sum(network.domain(other) == domain for other in network.gpus)


def exchange(
    network: Network,
    phase: Phase,
    ranks: tuple[str, ...],
    tokens: float,
    token_bytes: float,
    choice: ExpertChoice,
    *,
    has_prefill: bool = False,
    library: str = "auto",
    load: float = 1.0,
) -> Demand:
    """One phase over `ranks`, each with `tokens` tokens of `token_bytes` bytes.

    `load`: what the busiest rank receives over an even share; its bytes bound the time from below, the bytes
    on the links are those of all tokens.
    """
    if len(ranks) < 2:
        return Demand((), ())
    demand = _exchange(network, phase, ranks, tokens * token_bytes, choice, has_prefill, library, load)
    if network.peer_to_peer:
        return demand
    # Staged in host memory, an exchange is never quicker than with copies from GPU to GPU.
    peers = _exchange(
        network.with_peers(), phase, ranks, tokens * token_bytes, choice, has_prefill, library, load
    )
    flow_s, least_s = demand.flow_s(network.capacity), peers.flow_s(network.capacity)
    if demand.latency_s + flow_s >= peers.latency_s + least_s:
        return demand
    return replace(
        demand,
        latency_s=max(demand.latency_s, peers.latency_s),
        min_flow_s=max(demand.min_flow_s, peers.min_flow_s, least_s),
    )


def _exchange(
    network: Network,
    phase: Phase,
    ranks: tuple[str, ...],
    n_bytes: float,
    choice: ExpertChoice,
    has_prefill: bool,
    library: str,
    load: float,
) -> Demand:
    """One phase of `n_bytes` from each rank."""
    kernel = chosen(network, ranks, has_prefill=has_prefill, library=library)
    pace = kernel.pace(phase)
    reach = _reach(network, kernel.copies, ranks, choice, phase == "combine")
    # NVLink and NICs work at once, each at its share of its rate, so the slower one is the pace. The busiest
    # rank's load bounds the time from below only: the bytes on the links stay those of all tokens, for the
    # kernel waits for that rank while other traffic sees no more bytes.
    min_flow_s = (
        load
        * n_bytes
        * max(reach.intra_domain_s / pace.intra_domain, reach.inter_domain_s / pace.inter_domain)
    )
    amounts = tuple(n_bytes * amount for amount in reach.demand.n_bytes)
    latency_s = at_once(pace.latency_s(len(ranks)), (reach.longest,))
    busiest_s = n_bytes * reach.busiest_s
    efficiency = busiest_s / min_flow_s if min_flow_s else inf
    return Demand(reach.demand.links, amounts, latency_s, min_flow_s, efficiency)


def payload_s(
    network: Network,
    phase: Phase,
    ranks: tuple[str, ...],
    choice: ExpertChoice,
    *,
    has_prefill: bool = False,
    library: str = "auto",
) -> tuple[float, float]:
    """Seconds for each byte of a rank's tokens on NVLink, and between domains, at the links' full rates."""
    kernel = chosen(network, ranks, has_prefill=has_prefill, library=library)
    reach = _reach(network, kernel.copies, ranks, choice, phase == "combine")
    return reach.intra_domain_s, reach.inter_domain_s


def sends(
    network: Network,
    copies: Copies,
    ranks: Sequence[str],
    choice: ExpertChoice,
) -> dict[tuple[str, str], float]:
    """Expected copies of a token that go from each rank to each other one, when every rank has one token."""
    n = len(ranks)
    per_rank = choice.topk / n if copies == "expert" else choice.distinct(n) / n
    if copies != "domain" or network.same_domain(ranks):
        return {(a, b): per_rank for a in ranks for b in ranks if a != b}
    # A token crosses to a domain once, however many experts it has there, and fans out over NVLink from the
    # GPU that receives it; so the number of distinct domains counts between them, that of ranks within.
    islands: dict[str | None, list[str]] = {}
    for rank in ranks:
        islands.setdefault(network.domain(rank) or rank, []).append(rank)
    sent: dict[tuple[str, str], float] = {}
    for source in ranks:
        home = network.domain(source) or source
        for island, members in islands.items():
            if island == home:
                for rank in members:
                    _count(sent, source, rank, per_rank)
                continue
            domains = n / len(members)
            hit = choice.distinct(domains) / domains
            stop = relay_beside(network, source, members[0]) or members[0]
            _count(sent, source, stop, hit)
            for rank in members:
                _count(sent, stop, rank, per_rank)
    return sent


def _count(sent: dict[tuple[str, str], float], source: str, target: str, copies: float) -> None:
    if source != target:
        sent[source, target] = sent.get((source, target), 0.0) + copies


def _demands(
    network: Network, copies: Copies, ranks: tuple[str, ...], choice: ExpertChoice, back: bool
) -> tuple[Demand, Demand, Demand]:
    """All of an exchange, and of it what stays on NVLink and what goes between domains."""
    islands: dict[str, list[str]] = {}
    for rank in ranks:
        islands.setdefault(network.crossbar(rank) or rank, []).append(rank)
    parts = _by_islands(network, copies, ranks, choice, list(islands.values()))
    if parts is not None:
        near, far = parts
        return _demand_of(merged(far, near)), _demand_of(near), _demand_of(far)
    if len(ranks) > PAIR_BY_PAIR and network.same_domain(ranks):
        held = choice.topk if copies == "expert" else choice.distinct(len(ranks))
        whole = _alike(network, ranks, held / len(ranks))
        return whole, whole, Demand((), ())
    sent = sends(network, copies, ranks, choice)
    if back:  # combine retraces dispatch: the same copies, added up on the way
        sent = {(target, source): amount for (source, target), amount in sent.items()}
    intra_domain = {pair: amount for pair, amount in sent.items() if network.same_domain(pair)}
    inter_domain = {pair: amount for pair, amount in sent.items() if pair not in intra_domain}
    whole, inside, outside = (pairs_demand(network, pairs) for pairs in (sent, intra_domain, inter_domain))
    return whole, inside, outside


PAIR_BY_PAIR = 128
"""Ranks; the pairs of more in one domain are not gone through one by one."""


def _alike(network: Network, ranks: tuple[str, ...], n_bytes: float) -> Demand:
    """As much from every rank of one NVLink domain to every other: first and last link of a way are the
    GPUs' own, and what lies between is the same for all GPUs of two switches.
    """
    switches: dict[str, list[str]] = {}
    load: dict[int, float] = {}
    for rank, other in zip(ranks, (*ranks[1:], ranks[0]), strict=True):
        up, down = network.path(rank, other).links[0], network.path(other, rank).links[-1]
        load[up] = load[down] = (len(ranks) - 1) * n_bytes
        switches.setdefault(network.ends[up][1], []).append(rank)
    for here, members in switches.items():
        for there, others in switches.items():
            pairs = len(members) * (len(others) - (here == there))
            if pairs:
                between = network.path(members[0], others[1 if here == there else 0]).links[1:-1]
                for link in between:
                    load[link] = load.get(link, 0.0) + pairs * n_bytes
    return Demand(tuple(load), tuple(load.values()))


def _by_islands(
    network: Network,
    copies: Copies,
    ranks: Sequence[str],
    choice: ExpertChoice,
    islands: Sequence[Sequence[str]],
) -> tuple[Load, Load] | None:
    """What `sends` puts on each link inside islands and between them, without a look at every pair; None
    where that is needed. There and back is the same: every GPU sends as much as it gets, on the same ways.
    """
    if len(islands) < 2 or len(islands) == len(ranks):
        return None
    if copies == "domain":
        domains = len(ranks) / len(islands[0])
        hit = choice.distinct(domains) / domains
        return relayed_loads(network, islands, hit, choice.distinct(len(ranks)) / len(ranks))
    if copies != "expert":
        return None
    per_rank = choice.topk / len(ranks)
    far = network.loads_between(islands, per_rank)
    if far is None:
        return None
    near = pairs_demand(
        network, {(a, b): per_rank for island in islands for a in island for b in island if a != b}
    )
    return dict(zip(near.links, near.n_bytes, strict=True)), far


def _demand_of(load: Load) -> Demand:
    return Demand(tuple(load), tuple(load.values()))


def _reach(
    network: Network,
    copies: Copies,
    ranks: tuple[str, ...],
    choice: ExpertChoice,
    back: bool,
) -> Reach:
    key = (copies, ranks, choice, back)
    reach = network.remembered.exchanges.get(key)  # per byte, so that every number of tokens scales one entry
    if reach is None:
        whole, intra_domain, inter_domain = _demands(network, copies, ranks, choice, back)
        reach = network.remembered.exchanges[key] = Reach(
            whole,
            intra_domain.flow_s(network.capacity),
            inter_domain.flow_s(network.capacity),
            whole.flow_s(network.capacity),
            longest_of(by_parts(network.path(ranks[0], other), default_parameters()) for other in ranks[1:]),
        )
    return reach
