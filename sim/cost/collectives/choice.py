"""What a collective costs: the library's choice of algorithm and protocol, its latency, and its bytes on
links.

    timing = collective(network, "all_reduce", 65_536, network.gpus[:8])
    timing.total_s, timing.algorithm, timing.busbw_bytes_per_s, timing.demand

A library is `nccl`, or an engine with all-reduce kernels of its own that calls NCCL for the rest (`vllm`,
`sglang`, `trtllm`, and `flashinfer`, which vLLM calls where `VLLM_ALLREDUCE_USE_FLASHINFER` is set); `auto`
is vLLM. Sizes are those of nccl-tests: the whole buffer of a rank. Everything
that depends on (op, ranks, library) alone is worked out once and remembered in the network, so that a call
costs microseconds.

Where it stops: one collective alone, all ranks arriving together. Contention is the fabric's, stragglers
are the runtime's. Kernels launched from Python (`launch="eager"`) take at least the launch itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sim.cost.collectives import engine_allreduce, nccl
from sim.cost.collectives.curves import Curve, quickest
from sim.cost.collectives.demands import OPS, Demand, load_per_byte
from sim.cost.collectives.parameters import PROTOCOLS, Parameters, default_parameters
from sim.cost.network import Network
from sim.inputs.errors import InfeasibleError

LIBRARIES = ("auto", "nccl", "vllm", "sglang", "trtllm", "flashinfer", "none")
LAUNCHES = ("graph", "eager")
PROTOCOL_NAMES = {name.lower(): name for name in PROTOCOLS}


@dataclass(frozen=True, slots=True)
class CollectiveTiming:
    """A collective alone. `total_s` is `latency_s` + `bytes_s`."""

    op: str
    n_bytes: float
    ranks: int
    algorithm: str
    protocol: str
    library: str
    demand: Demand
    latency_s: float
    bytes_s: float

    @property
    def total_s(self) -> float:
        """Seconds from the last rank's arrival to the end."""
        return self.latency_s + self.bytes_s

    @property
    def algbw_bytes_per_s(self) -> float:
        """Size over time, as nccl-tests prints it."""
        return self.n_bytes / self.total_s if self.total_s > 0.0 else 0.0

    @property
    def busbw_bytes_per_s(self) -> float:
        """Size over time times what a ring would send per byte: comparable with a link's rate
        (nccl-tests).
        """
        share = {"all_reduce": 2.0 * (self.ranks - 1) / self.ranks, "broadcast": 1.0, "send_recv": 1.0}
        return self.algbw_bytes_per_s * share.get(self.op, (self.ranks - 1) / self.ranks)


@dataclass(slots=True)
class Offer:
    """All ways to do one op on given ranks: the engine's kernels by size, then the curves that the rule
    chooses from.

    `with_peers` is the offer on the same machine with copies from GPU to GPU, which staged ones never beat;
    None where they are allowed. `priced` has the sizes that were asked for. `parameters` are those that the
    offer was made from: held here because offers are remembered by their identity, which another object may
    take once they are gone.
    """

    engine: list[tuple[float, Curve]]
    engine_library: str
    eager_s: float
    curves: tuple[Curve, ...]
    parameters: Parameters
    with_peers: Offer | None = None
    priced: dict[float, CollectiveTiming] = field(default_factory=dict)


class _Wanted(NamedTuple):
    """What a call asks for, its size left out."""

    op: str
    ranks: tuple[str, ...]
    library: str
    algorithm: str
    protocol: str
    launch: str


def collective(
    network: Network,
    op: str,
    n_bytes: float,
    ranks: Sequence[str],
    library: str = "auto",
    algorithm: str = "auto",
    protocol: str = "auto",
    launch: str = "graph",
    parameters: Parameters | None = None,
) -> CollectiveTiming:
    """One collective of `n_bytes` over `ranks` (GPU names), alone.

    `library="none"` is the bare algorithm: bytes over links, with no software time at all. Raises
    InfeasibleError for an op, library, algorithm or protocol that does not exist or that these ranks cannot
    run.
    """
    ranks = tuple(ranks)
    protocol = PROTOCOL_NAMES.get(protocol.lower(), protocol)
    if n_bytes < 0.0:
        raise InfeasibleError(f"n_bytes = {n_bytes:g}: must be at least 0")
    if len(ranks) == 1:
        return CollectiveTiming(op, n_bytes, 1, "none", "", library, Demand((), ()), 0.0, 0.0)
    key = (op, ranks, library, algorithm, protocol, launch, id(parameters) if parameters is not None else 0)
    offer = network.remembered.offers.get(key)
    if offer is None:
        wanted = _Wanted(op, ranks, library, algorithm, protocol, launch)
        offer = network.remembered.offers[key] = _offer(network, wanted, parameters or default_parameters())
    timing = offer.priced.get(n_bytes)
    if timing is None:
        timing = _priced(offer, op, float(n_bytes), len(ranks))
        if len(offer.priced) < 4096:
            offer.priced[n_bytes] = timing
    return timing


def _priced(offer: Offer, op: str, n_bytes: float, n: int) -> CollectiveTiming:
    # The engine's kernels come in order of size, so that the first window that holds the size is the one.
    curve, library = None, "nccl" if offer.engine_library != "none" else "none"
    for to_bytes, kernel in offer.engine:
        if n_bytes < to_bytes:
            curve, library = kernel, offer.engine_library
            break
    if curve is None:
        curve = quickest(offer.curves, n_bytes)
    latency_s = curve.latency_s(n_bytes)
    bytes_s = max(n_bytes * curve.wire_s, curve.min_flow_s(n_bytes))
    latency_s = max(latency_s, offer.eager_s - bytes_s)  # launched from Python, no call is shorter than that
    demand = replace(curve.demand(n_bytes), latency_s=latency_s)
    if offer.with_peers is not None:
        # A copy through host memory takes what a peer's copy takes and the turn in memory: where the
        # constants of staging, which were fitted on other machines, say less, the peers' price is the least.
        least = _priced(offer.with_peers, op, n_bytes, n)
        if latency_s + bytes_s < least.total_s:
            bytes_s = min(max(bytes_s, least.bytes_s), least.total_s - latency_s)
            latency_s = max(latency_s, least.total_s - bytes_s)
            demand = replace(demand, latency_s=latency_s, min_flow_s=max(demand.min_flow_s, bytes_s))
    return CollectiveTiming(
        op, n_bytes, n, curve.algorithm, curve.protocol, library, demand, latency_s, bytes_s
    )


def _offer(network: Network, wanted: _Wanted, parameters: Parameters) -> Offer:
    """The engine's own kernels come first, each up to its size; NCCL's curves serve every other size."""
    _refuse_unknown(network, wanted)
    if wanted.library == "none":
        return _bare(network, wanted, parameters)
    offer = _library_offer(network, wanted, parameters)
    if not network.peer_to_peer:
        offer.with_peers = _library_offer(network.with_peers(), wanted, parameters)
    return offer


def _library_offer(network: Network, wanted: _Wanted, parameters: Parameters) -> Offer:
    engine = "vllm" if wanted.library == "auto" else wanted.library
    engines = parameters.architecture(network, wanted.ranks[0]).engines
    eager_s = engines[engine].eager_launch_s if wanted.launch == "eager" and engine in engines else 0.0
    own: list[tuple[float, Curve]] = []
    if wanted.op == "all_reduce" and engine != "nccl":
        if wanted.algorithm in engine_allreduce.DEMAND_OF:
            forced = _forced_kernel(network, wanted, engine, parameters)
            return Offer([(float("inf"), forced)], engine, eager_s, (), parameters)
        if wanted.algorithm == "auto" and wanted.protocol == "auto":  # a forced choice is always NCCL's
            own = engine_allreduce.windows(network, engine, wanted.ranks, parameters)
    return Offer(own, engine, eager_s, _nccl_curves(network, wanted, parameters), parameters)


def _refuse_unknown(network: Network, wanted: _Wanted) -> None:
    for name, value, known in (
        ("op", wanted.op, OPS),
        ("library", wanted.library, LIBRARIES),
        ("launch", wanted.launch, LAUNCHES),
    ):
        if value not in known:
            raise InfeasibleError(f"{name} = {value!r}: must be one of {', '.join(known)}")
    strangers = [rank for rank in wanted.ranks if rank not in network.gpu_index]
    if strangers:
        raise InfeasibleError(
            f"rank {strangers[0]!r}: no such GPU in {network.name or 'this topology'}",
            f"its GPUs are {network.gpus[0]} to {network.gpus[-1]}",
        )


def _nccl_curves(network: Network, wanted: _Wanted, parameters: Parameters) -> tuple[Curve, ...]:
    """The curves among which size decides: those that NCCL's rule allows, or those of a forced algorithm
    and protocol. InfeasibleError where none is left.
    """
    op, ranks, algorithm = wanted.op, wanted.ranks, wanted.algorithm
    # Refuses ranks on which the op has no meaning (one rank twice) before any curve is drawn.
    load_per_byte(network, op, _default_algorithm(op), ranks)
    curves = nccl.candidates(network, op, ranks, parameters)
    if algorithm == "auto":
        architecture = parameters.architecture(network, ranks[0])
        chosen = [curve for curve in curves if nccl.chosen_by_rule(curve, op, len(ranks), architecture)]
    else:
        chosen = [curve for curve in curves if curve.algorithm == algorithm]
        if not chosen:
            load_per_byte(network, op, algorithm, ranks)  # its own refusal says more, where it has one
            there = ", ".join(sorted({curve.algorithm for curve in curves}))
            raise InfeasibleError(f"algorithm = {algorithm!r}: for {op} on these ranks NCCL runs {there}")
    if wanted.protocol != "auto":
        chosen = [curve for curve in chosen if curve.protocol == wanted.protocol]
        if not chosen:
            there = ", ".join(sorted({curve.protocol for curve in curves}))
            raise InfeasibleError(
                f"protocol = {wanted.protocol!r}: for {algorithm} {op} on these ranks there are {there}"
            )
    return tuple(chosen)


def _forced_kernel(network: Network, wanted: _Wanted, library: str, parameters: Parameters) -> Curve:
    kernel, ranks = wanted.algorithm, wanted.ranks
    engine = parameters.architecture(network, ranks[0]).engines.get(library)
    if engine is None or kernel not in engine.kernels or not engine_allreduce.usable(network, kernel, ranks):
        raise InfeasibleError(
            f"algorithm = {kernel!r}: {library} has no such all-reduce for these {len(ranks)} ranks",
            "'auto' works",
        )
    return engine_allreduce.kernel_curve(network, kernel, ranks, engine, parameters)


def _bare(network: Network, wanted: _Wanted, parameters: Parameters) -> Offer:
    """Bytes over links and nothing else: no library's start, pace or protocol."""
    algorithm = _default_algorithm(wanted.op) if wanted.algorithm == "auto" else wanted.algorithm
    load = load_per_byte(network, wanted.op, algorithm, wanted.ranks)
    curve = Curve(algorithm, "", tuple(load), tuple(load.values()), nccl.wire_s(network, load), 0.0)
    return Offer([], "none", 0.0, (curve,), parameters)


def _default_algorithm(op: str) -> str:
    return "direct" if op in ("all_to_all", "send_recv") else "ring"
