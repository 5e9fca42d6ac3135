"""What a run, a collective or a kernel rests on: found from where its constants come from, and from the
errors that points of its kind had (`sim.reading.accuracy`). No clock, no scenario.

A GPU without kernels of its own runs at an H100's shares of its own datasheet's peaks: a stand-in, scaled by
the ratios of the datasheets. A machine that is not one of the shipped ones, as shipped, has collectives of
the measured machine whose GPUs are nearest, as shares of its own links' rates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, reduce
from typing import Any

from sim.catalog import list_gpus, list_topologies, load_gpu, load_topology
from sim.cost.collectives.parameters import default_parameters
from sim.cost.kernels.attention import prefill_variant
from sim.cost.kernels.kernels import formula
from sim.cost.kernels.measured import MeasuredKernels
from sim.cost.launches import HOSTS, launches_one_by_one
from sim.cost.machine_basis import pcie_band, pcie_span, rings_stay_on_links
from sim.cost.network import Network
from sim.inputs.engine import Engine, HostTime
from sim.inputs.gpu_kinds import distance, kind_of
from sim.inputs.hardware import Gpu
from sim.inputs.kernel_parameters import DEFAULT_ENGINE, LENT, UNDER
from sim.inputs.model import Model
from sim.inputs.precision import Precision
from sim.inputs.topology import Topology
from sim.reading.accuracy import Errors, accuracy
from sim.results.basis import (
    CERTAIN,
    FITTED_POINTS,
    WORST,
    Band,
    Basis,
    RunBasis,
    size_class,
    together,
    users_band,
    weighed,
)

DEFAULTS_OF = "h100-sxm"  # whose constants, rounded, a GPU without any takes (`sim.inputs.kernel_parameters`)
_NEAR = {
    "architecture": "measured GPUs as if priced by another one of their architecture",
    "vendor": "measured GPUs of other architectures as if priced by an H100",
    "none": "the widest that any stand-in missed by: no GPU of this or an unknown vendor was measured",
}
PCIE_GPUS = 2
ACROSS = "nd-h100-v5"  # the only system whose collectives between servers were measured to ten servers


def _with_errors(basis: Basis, errors: Errors | None, points: str) -> Basis:
    """A part with the errors of `points`: 9 in 10 of them where it is borrowed, else 8 in 10."""
    if errors is None:
        return basis
    band = errors.nine_in_ten if basis.kind == "stand-in" else errors.eight_in_ten
    return replace(basis, n=errors.n, median_error=errors.median, band=band, points=points)


# ---- kernels


def kernel_basis(gpu: Gpu, rule: Any, engine: str, kernels: Iterable[tuple[str, str]], bound: str) -> Basis:
    """What the time of kernels (name, number format) on a GPU rests on: the weakest of them, with the errors
    of one kernel, or of `bound` = the kind of model that has them all.
    """
    if isinstance(rule, MeasuredKernels):
        return Basis("measured", f"{gpu.name}, table {rule.source}" if rule.source else gpu.name)
    if rule is not formula:
        return Basis("given", "by a script")
    kernels = list(kernels)
    lent = [source for op, dtype in kernels if (source := _lender(gpu, engine, op, dtype)) is not None]
    of = {"kernel": kernels[0][0]} if len(kernels) == 1 else {"model": bound}
    if not lent:
        keys = ("kernel gpu", "kernel", "model gpu", "model")
        errors = accuracy()["kernels"].nearest({**of, "gpu": gpu.name}, *keys)
        where = f"shapes that no fit saw, {_of_gpu(errors)}"
        under = _under_others(gpu, engine, kernels)
        return _with_errors(Basis("measured", gpu.name, under=under), errors, where)
    far, name = max(((_far(gpu, lender), lender) for lender in lent), key=lambda one: FAR.index(one[0]))
    if len(kernels) == 1 and bound:
        of["bound"] = bound
    errors = accuracy()["stand_ins"].nearest(
        {**of, "near": far}, "near kernel bound", "near kernel", "near model"
    )
    return _with_errors(Basis("stand-in", name), errors, _NEAR[far])


FAR = ("architecture", "vendor", "none")


def _far(gpu: Gpu, lender: str) -> str:
    """How far a lender is; a GPU's own constants in another format, or on another datasheet, are near."""
    return "architecture" if lender.startswith(gpu.name) else distance(gpu.name, lender)


def _lender(gpu: Gpu, engine: str, op: str, dtype: str) -> str | None:
    """Whose constants a kernel takes; None for those that were fitted on this GPU."""
    known = gpu.kernels
    if known is None:
        return DEFAULTS_OF
    shipped = _shipped_gpu(gpu.name)
    whole = known.provenance.get("*")
    lent = whole is not None and LENT.search(whole.source)
    if shipped is not None and _datasheet(gpu) != _datasheet(shipped) and not lent:
        return f"{gpu.name} as shipped"
    own = known.engines.get(engine)
    for parameters in (own, known) if own is not None else (known,):
        found = getattr(parameters, op)
        if dtype in found:
            said = parameters.provenance.get(f"{op}.{dtype}") or parameters.provenance.get("*")
            if said is None or said.tag != "assumed":
                return None
            lender = LENT.search(said.source)
            return lender[1] if lender else DEFAULTS_OF
    formats = getattr(known, op)
    return f"{gpu.name} in {next(iter(formats))}" if formats else DEFAULTS_OF


def _under_others(gpu: Gpu, engine: str, kernels: Iterable[tuple[str, str]]) -> str:
    """Which kernels of a measured GPU were measured under other engines than this, in words."""
    assert gpu.kernels is not None
    own, ops_of = gpu.kernels.engines.get(engine), dict[str, list[str]]()
    for op, dtype in kernels:
        if own is not None and dtype in getattr(own, op):
            continue
        said = gpu.kernels.provenance.get(f"{op}.{dtype}")
        named = UNDER.search(said.source) if said is not None else None
        measured = named[1] if named else DEFAULT_ENGINE
        if measured != engine:
            ops_of.setdefault(measured, []).append(f"{op} in {dtype}")
    parts = [f"{', '.join(dict.fromkeys(ops))} as under {other}" for other, ops in ops_of.items()]
    return f"not measured under {engine}: {'; '.join(parts)}" if engine and parts else ""


@cache
def _shipped_gpu(name: str) -> Gpu | None:
    return load_gpu(name) if name in list_gpus() else None


def _datasheet(gpu: Gpu) -> tuple[object, ...]:
    return gpu.hbm_bytes_per_s, gpu.flops, gpu.sms, gpu.l2_bytes


def model_kind(model: Model) -> str:
    """The kinds of models by which errors are grouped: latent attention, mixtures of experts, the rest."""
    return "mla" if model.mla is not None else "moe" if model.is_moe else "dense"


def kernels_of(model: Model, precision: Precision) -> list[tuple[str, str]]:
    """The kernels that decide what a model's layers take, each with the format that it has constants by."""
    weights, cache_format = _plain(precision.weights), _plain(precision.kv_cache)
    decode = "fp8" if cache_format == "int8" else cache_format
    prefill = prefill_variant(_plain(precision.attention or "bf16"), cache_format)
    family = "mla" if model.mla is not None else "attention"
    found = [("gemm", weights), (f"{family}_prefill", prefill), (f"{family}_decode", decode)]
    return [*found, ("moe", _plain(precision.experts or precision.weights))] if model.is_moe else found


def _plain(dtype: str) -> str:
    return "bf16" if dtype == "fp16" else dtype


# ---- machines and collectives


def machine_origin(topology: Topology) -> str:
    """Whether a machine is a `shipped` one as its file has it, or one that is `described` by a user: in a
    file or graph of one's own, or changed. A shipped one whose file says so is `measured`, or `idealised`.
    """
    shipped = _shipped(topology.name)
    if shipped is None or topology.own_graph is not None:
        return "described"
    if not all(getattr(topology, field) == getattr(shipped, field) for field in _WIRING):
        return "described"
    if topology.domain not in (None, topology.gpus_per_node):
        return "described"
    return str(getattr(topology, "basis", None) or "shipped")


_WIRING = (
    "parts",
    "wires",
    "scale_out",
    "links",
    "transports",
    "peer_to_peer",
    "acs",
    "systems",
    "nics_per_gpu",
    "collectives",
)


@cache
def _shipped(name: str) -> Topology | None:
    return load_topology(name) if name in list_topologies() else None


@dataclass(frozen=True, slots=True)
class Collectives:
    """Whose collectives run: the model of GPU, the kind whose parameters they take, how many ranks there are,
    whether these are on several servers, whether they are joined as the measured ones were (by NVLink or
    PCIe, with copies from GPU to GPU), how far apart those are that talk over PCIe (`pcie_span`), and
    whether the topology gives their times.
    """

    gpu: str
    kind: str
    ranks: int
    across: bool = False
    joined_alike: bool = True
    span: str | None = None
    given: bool = False


def collectives_on(network: Network, ranks: Sequence[str]) -> Collectives:
    """Of ranks of a network."""
    places = [network.places[rank] for rank in ranks]
    kind = default_parameters().architecture(network, ranks[0])
    alike = network.peer_to_peer and (kind.medium == "nvlink") == (network.nvlink_bytes_per_s(ranks[0]) > 0.0)
    across = len({(place.get("node", 0), place.get("island", 0)) for place in places}) > 1
    alike = alike and not (across and network.inter_node in ("roce", "efa"))
    span = None if rings_stay_on_links(network, ranks) else pcie_span(network, ranks)
    given = network.own_collectives is not None
    return Collectives(str(places[0].get("model", "")), kind.name, len(ranks), across, alike, span, given)


def collective_basis(who: Collectives, machine: str, library: str, **of: str) -> Basis:
    """What collectives rest on: `of` has the op, the size and the ranks of one, or nothing for those of a
    run. `machine` is as `machine_origin` has it.
    """
    if library == "none":
        return Basis("datasheet", "its links, without a library's time")
    if who.given and not who.across:
        return Basis("given", "by the topology")
    measured = _gpus_measured(who.kind)
    lender = ", ".join(measured)
    there = machine in ("shipped", "measured") and who.gpu.startswith(measured) and who.joined_alike
    if default_parameters().architectures[who.kind].medium == "pcie" and who.ranks > PCIE_GPUS:
        # Pairs were measured. What joins the pairs of a box differs by factors from one box to the next.
        there, lender = there and machine == "measured", f"pairs of {lender}"
    if who.across:
        there, lender = there and who.gpu == DEFAULTS_OF, f"{ACROSS} over InfiniBand"
    if not there:
        keys = ("op size", "op", "all")
        errors = accuracy()["borrowed_collectives"].nearest({"all": "all", **of}, *keys)
        where = "measured GPUs as if priced by those of another kind, inside a server"
        basis = _with_errors(Basis("stand-in", lender), errors, where)
        if who.span is None or machine == "measured":
            return basis
        band = together(basis.band or CERTAIN, pcie_band(who.span, of.get("size")))
        return replace(basis, band=band, points=f"{where}, and measured servers over PCIe on {who.span}")
    if who.across:
        errors = accuracy()["collectives_across"].nearest({"all": "all", **of}, "op size", "op", "all")
        return _with_errors(Basis("measured", lender), errors, FITTED_POINTS)
    levels = ("kind op size ranks", "kind op size", "kind op", "kind")
    errors = accuracy()["collectives"].nearest({"kind": who.kind, **of}, *levels)
    return _with_errors(Basis("measured", who.gpu), errors, "numbers of ranks, and systems, that no fit saw")


@cache
def _gpus_measured(kind: str) -> tuple[str, ...]:
    """The GPUs that the source of a kind's parameters names."""
    parameters = default_parameters()
    source = parameters.provenance[kind]["source"].lower().replace(" ", "-")
    named = (gpu for gpu, own in parameters.gpus.items() if re.search(rf"\b{gpu}\b", source))
    return tuple(sorted(named))


# ---- a run


@dataclass(frozen=True, slots=True)
class Served:
    """The engines of one pool, and a GPU that they run on."""

    gpu: Gpu
    model: Model
    precision: Precision
    engine: Engine


@dataclass(frozen=True, slots=True)
class Load:
    """What decides which measured services are nearest: how requests come (`closed`, `queued`, `open`), so
    many at a time on an engine, and whether prefill and decode are apart.
    """

    arrivals: str
    users: int
    apart: bool = False


# The parts of a step that each cause is priced by; what waits, waits for steps of others.
_BOUNDS = {
    "prefill_compute": "compute", "decode_compute": "compute", "memory": "memory", "kernel_latency": "latency"
}  # fmt: skip
_LINKS = ("collective_latency", "collective_bytes", "sharing", "hand_over")
_HOST = ("host", "routing")
_LATENCY_OF = {"mean_tpot_ms": "itl", "mean_ttft_ms": "ttft", "output_throughput": "e2el"}


def run_basis(
    numbers: Mapping[str, Any],
    served: Sequence[Served],
    rule: Any,
    collectives: Sequence[Collectives],
    topology: Topology,
    load: Load,
    degraded: bool = False,
) -> RunBasis:
    """What a run rests on, from the numbers of its summary and what served it. A machine that was `degraded`
    during the run, by the loss of links or of switch chips, was not measured so.
    """
    first = served[0]
    by_gpu: dict[str, Basis] = {}
    for one in served:
        own = kernel_basis(
            one.gpu, rule, one.engine.backend, kernels_of(one.model, one.precision), model_kind(one.model)
        )
        by_gpu[one.gpu.name] = _weaker(by_gpu.get(one.gpu.name, own), own)
    kernels = by_gpu[first.gpu.name]
    weakest = first
    for one in served:
        if _weaker(kernels, by_gpu[one.gpu.name]) is not kernels:
            kernels, weakest = by_gpu[one.gpu.name], one
    libraries = {one.engine.collectives_library for one in served}
    machine = "described" if degraded else machine_origin(topology)
    decode = size_class(2.0 * weakest.model.hidden * load.users)  # activations of a token are in 16 bits
    links, small = (
        _weakest(
            [
                collective_basis(who, machine, library, **of)
                for who in collectives
                for library in sorted(libraries)
            ]
        )
        for of in ({}, {"size": decode})
    )
    bands, points = _bands(numbers, weakest, kernels, {"itl": small}, links, load)
    return RunBasis(
        kernels,
        links,
        host_basis(first.engine, weakest.gpu),
        memory_basis(weakest.gpu),
        by_gpu,
        bands,
        points,
    )


def _weaker(one: Basis, other: Basis) -> Basis:
    if WORST.index(one.kind) == WORST.index(other.kind):
        spread = [basis.band[1] / basis.band[0] if basis.band else 0.0 for basis in (one, other)]
        return one if spread[0] >= spread[1] else other
    return min(one, other, key=lambda basis: WORST.index(basis.kind))


def _weakest(parts: Sequence[Basis]) -> Basis | None:
    return reduce(_weaker, parts) if parts else None


def _bands(
    numbers: Mapping[str, Any],
    served: Served,
    kernels: Basis,
    links_of: Mapping[str, Basis | None],
    links: Basis | None,
    load: Load,
) -> tuple[dict[str, Band], str]:
    """Lowest and highest of each quantity, and of which services the errors are. `links_of` has collectives
    by the latency that they are part of, `links` those of the others.
    """
    bands: dict[str, Band] = {}
    points = ""
    if kernels.kind == "given":
        return bands, points
    for quantity, latency in _LATENCY_OF.items():
        value = numbers.get(quantity)
        errors = service_errors(quantity, served, load)
        if not value or errors is None:
            continue
        if quantity == "output_throughput" and load.arrivals == "open" and not numbers.get("saturated"):
            continue  # as much as arrives
        band = errors.eight_in_ten if "model" in errors.of else errors.nine_in_ten  # of other kinds: borrowed
        causes = ((numbers.get("blame") or {}).get(latency) or {}).get("mean") or {}
        others = [_launches_band(causes, served.engine)]
        if "stand-in" in (kernels.kind, links.kind if links else ""):
            others.append(_steps_band(causes, served, kernels, links_of.get(latency, links)))
        for low, high in others:
            band = together(band, (1.0 / high, 1.0 / low) if quantity == "output_throughput" else (low, high))
        bands[quantity] = value * band[0], value * band[1]
        points = points or _services(errors, served, load)
    return bands, points


def _steps_band(causes: Mapping[str, float], served: Served, kernels: Basis, links: Basis | None) -> Band:
    """The band of a latency's time from those of the parts that are borrowed."""
    parts: dict[str, tuple[float, Band]] = {}
    for cause, mean_ms in causes.items():
        band = CERTAIN
        if cause in _LINKS:
            band = links.band if links and links.band and links.kind == "stand-in" else CERTAIN
        elif cause not in _HOST and kernels.kind == "stand-in":
            band = _bound_band(kernels, served, _BOUNDS.get(cause, ""))
        parts[cause] = mean_ms, band
    return weighed(parts)


def _launches_band(causes: Mapping[str, float], engine: Engine) -> Band:
    """The band of a latency whose steps wait for launches: those of another host take longer, all of them,
    or less, down to what the kernels take.
    """
    waits, whole = causes.get("host", 0.0), sum(causes.values())
    if not launches_one_by_one(engine) or engine.host.launch_s is not None or not 0.0 < waits <= whole:
        return CERTAIN
    return max(HOSTS[0], 1.0 - waits / whole), HOSTS[1]


def _bound_band(kernels: Basis, served: Served, bound: str) -> Band:
    """Of what one bound holds back, where stand-ins were tried on it; else of all kernels of the model."""
    far = _far(served.gpu, kernels.of)
    of = {"near": far, "model": model_kind(served.model), "bound": bound}
    keys = ("near model",) if of["model"] == "mla" else ("near model bound", "near model")
    errors = accuracy()["stand_ins"].nearest(of, *keys)
    return errors.nine_in_ten if errors else kernels.band or CERTAIN


def service_errors(quantity: str, served: Served, load: Load) -> Errors | None:
    """Errors of the measured services that are nearest to this one."""
    of = {
        "quantity": quantity, "model": model_kind(served.model), "gpu": served.gpu.name,
        "engine": served.engine.backend, "users": users_band(load.users),
    }  # fmt: skip
    found = None
    if load.apart:
        found = accuracy()["pools"].nearest(of, "quantity model gpu", "quantity model", "quantity")
    elif load.arrivals == "queued" and quantity == "output_throughput":
        found = accuracy()["queued"].nearest(of, "quantity model gpu", "quantity model", "quantity")
    return found or accuracy()["closed_loops"].nearest(
        of,
        "quantity model gpu engine users",
        "quantity model gpu engine",
        "quantity gpu engine users",
        "quantity model engine users",
        "quantity model engine",
        "quantity model",
        "quantity",
    )


def _services(errors: Errors, served: Served, load: Load) -> str:
    """The services in words, and what they lack of this one."""
    of = errors.of
    kind = {"mla": "latent-attention"}.get(model_kind(served.model), model_kind(served.model))
    words = f"{8 if 'model' in of else 9} of 10 of {errors.n} measured services"
    words += f" of {kind} models" if "model" in of else " of all models"
    words += _of_gpu(errors)
    words += f" under {of['engine']}" if "engine" in of else ""
    words += f" with {of['users']} users" if "users" in of else ""
    words += "" if "model" in of else f"; too few of {kind} models"
    if "gpu" not in of and served.gpu.name not in accuracy()["closed_loops"].values("gpu"):
        words += f"; none on {served.gpu.name}"
    return words


def _of_gpu(errors: Errors | None) -> str:
    return f" on {errors.of['gpu']}" if errors is not None and "gpu" in errors.of else " on all measured GPUs"


HOST_LENDER = "servers with NVIDIA GPUs"


def host_basis(engine: Engine, gpu: Gpu | None = None) -> Basis:
    """What the host's time rests on: the fit of the engine, or what a scenario gives. With a GPU that is not
    known as NVIDIA's it is borrowed: every service of the fit, and every launch, was CUDA's.
    """
    if engine.service_time is not None:
        return Basis("given", "with the service time")
    # By value: after `--set` and `with_changes` every field of an engine counts as set.
    gaps = engine.step_gap_s, engine.frontend_s, engine.frontend_token_s
    if any(gaps) or engine.host != HostTime.model_validate({}):
        return Basis("given", "by the scenario")
    of = {"quantity": "mean_tpot_ms", "engine": engine.backend, "users": users_band(1)}
    errors = accuracy()["closed_loops"].nearest(of, "quantity engine users", "quantity users")
    points = f"time per token of services{_of_gpu(errors)} with {of['users']} users"
    if gpu is not None and kind_of(gpu.name)[0] != "nvidia":
        return Basis("stand-in", HOST_LENDER, points=points)
    return _with_errors(Basis("fitted", "for vLLM on one service"), errors, points)


def memory_basis(gpu: Gpu) -> Basis:
    """What the room for weights and KV cache rests on: the bytes that the driver reports, as the shipped file
    of a GPU or one of the user's has them, or the datasheet's. Published logs of what is left for the cache
    are too few for an error.
    """
    shipped = _shipped_gpu(gpu.name)
    if gpu.visible_hbm_bytes is not None and (
        shipped is None or shipped.visible_hbm_bytes != gpu.visible_hbm_bytes
    ):
        return Basis("given", f"by the description of {gpu.name}")
    return Basis("datasheet" if gpu.visible_hbm_bytes is None else "measured", gpu.name)
