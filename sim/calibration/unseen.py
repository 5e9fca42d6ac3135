"""Errors on what no fit saw: kernels of measured GPUs and of GPUs priced as if they had not been measured,
collectives likewise.

A GPU that was not measured runs at a stand-in's shares of its own datasheet's peaks. What that is worth is
measured by leaving one measured GPU out: its kernels by other GPUs' shares of its peaks, and by the constants
that a GPU without any takes (an H100's, rounded). Of other vendors there is no such table; for them stands
the widest of what any stand-in misses GPUs of another architecture by.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from sim.calibration.collective_points import ISLANDS, CollectivePoint
from sim.calibration.collectives import Raw, errors, nccl_of, with_parameters_of
from sim.calibration.held_out_collectives import held_out_points
from sim.calibration.host_bound import waits_for_host
from sim.calibration.kernel_fit import UNGRAPHED, predicted_s, worth_fitting
from sim.calibration.kernels import shipped_predictions, with_engine
from sim.catalog import load_gpu
from sim.cost.kernels.kernels import KERNELS
from sim.inputs.gpu_kinds import distance
from sim.inputs.hardware import Gpu
from sim.reading.accuracy import Errors
from sim.reading.measurements import Measurement
from sim.results.basis import MIXES, size_class

DEFAULTS_OF = "h100-sxm"  # whose constants, rounded, a GPU without any takes (`sim.inputs.kernel_parameters`)

Found = dict[tuple[tuple[str, str], ...], list[float]]


def _cells(found: Found) -> list[Errors]:
    return [Errors.over(dict(of), errors) for of, errors in sorted(found.items())]


def _add(found: Found, error: float, **of: str) -> None:
    found[tuple(of.items())].append(error)


def _in_a_graph(gpu: Gpu, one: Measurement) -> bool:
    # Others were timed launch by launch: small calls say how long Python takes, not the kernel.
    if one.op == "gemm" and one.variant in UNGRAPHED:
        return False
    return worth_fitting(gpu, one) and not waits_for_host(gpu, one.engine, one.op, one.variant)


def kernel_cells(measured: Iterable[Measurement]) -> list[Errors]:
    """Of the shipped parameters, on shapes that no fit saw: by kernel and GPU, and of what the layers of a
    kind of model are made of.
    """
    found: Found = defaultdict(list)
    for one, seconds, _ in shipped_predictions(measured):
        error = seconds / one.seconds - 1.0
        _add(found, error, kernel=one.op)
        _add(found, error, kernel=one.op, gpu=one.gpu)
        for model, ops in MIXES.items():
            if one.op in ops:
                _add(found, error, model=model)
                _add(found, error, model=model, gpu=one.gpu)
    return _cells(found)


def stand_in_cells(measured: Sequence[Measurement]) -> list[Errors]:
    """Of GPUs priced as if they had not been measured: by how near the stand-in is, kernel, and what bounds
    the call; and of the mixes of kernels that kinds of models have.
    """
    gpus = {name: load_gpu(name) for name in sorted({one.gpu for one in measured})}
    measured = [one for one in measured if _in_a_graph(gpus[one.gpu], one)]
    found: Found = defaultdict(list)
    by_stand_in: dict[str, Found] = defaultdict(lambda: defaultdict(list))
    for one in measured:
        for lender in (*gpus, ""):
            near = distance(one.gpu, lender or DEFAULTS_OF)
            # The constants of a GPU without any are an H100's: on an H100 they would be seen.
            if one.gpu in (lender, "" if lender else DEFAULTS_OF):
                continue
            priced = gpus[one.gpu].model_copy(update={"kernels": None})
            bound = _bound(priced, one)
            if lender:
                kernels = with_engine(gpus[lender], one.engine).kernels
                priced = priced.model_copy(update={"kernels": kernels})
            error = predicted_s(priced, one) / one.seconds - 1.0
            for of in _names(one.op, bound):
                if near == "architecture" or (near == "vendor" and not lender):
                    found[(("near", near), *of)].append(error)
                if near == "vendor":
                    by_stand_in[lender][(("near", "none"), *of)].append(error)
    return [*_cells(found), *_widest(by_stand_in)]


def _names(op: str, bound: str) -> Iterator[tuple[tuple[str, str], ...]]:
    """What a point counts for: its kernel, and every mix with it; with its bound and without."""
    for of in (("kernel", op), *(("model", model) for model, ops in MIXES.items() if op in ops)):
        yield (of,)
        if bound:
            yield of, ("bound", bound)


def _bound(gpu: Gpu, one: Measurement) -> str:
    """What bounds a call as a GPU without constants is priced; a block of latent attention is several."""
    if one.op.startswith("mla"):
        return ""
    warm = {"warm": True} if one.op in ("gemm", "attention_decode") else {}
    return KERNELS[one.op](gpu, **one.sizes, **warm).bound


def _widest(by_stand_in: dict[str, Found]) -> list[Errors]:
    """By what a point is of, the lowest and highest percentiles that any one stand-in has."""
    cells: dict[tuple[tuple[str, str], ...], list[Errors]] = defaultdict(list)
    for found in by_stand_in.values():
        for of, missed in found.items():
            cells[of].append(Errors.over(dict(of), missed))
    return [
        Errors(
            dict(of),
            sum(one.n for one in ones),
            max(one.median for one in ones),
            max((one.bias for one in ones), key=abs),
            min(one.p5 for one in ones),
            min(one.p10 for one in ones),
            max(one.p90 for one in ones),
            max(one.p95 for one in ones),
        )
        for of, ones in sorted(cells.items())
    ]


def collective_cells(points: Sequence[CollectivePoint], files: Raw) -> list[Errors]:
    """Inside a server, of parameters that were fitted without the number of ranks, or the system: by kind of
    GPU, operation and size.
    """
    found: Found = defaultdict(list)
    for how, point, error in held_out_points(points, files):
        if how != "stand-in":
            kind, gpu = ISLANDS[point.system].kind, ISLANDS[point.system].model
            size = size_class(point.n_bytes)
            _add(found, error, op=point.op)
            _add(found, error, kind=kind)
            _add(found, error, kind=kind, gpu=gpu)
            _add(found, error, kind=kind, op=point.op)
            _add(found, error, kind=kind, op=point.op, size=size)
            _add(found, error, kind=kind, op=point.op, size=size, ranks=str(point.gpus))
    return _cells(found)


def borrowed_collective_cells(points: Sequence[CollectivePoint], files: Raw) -> list[Errors]:
    """Every kind of GPU by the parameters of every other kind whose GPUs are joined alike (NVLink, PCIe), as
    shares of its own links' rate: by operation and size.
    """
    found: Found = defaultdict(list)
    blocks = files["inside"]["architectures"]
    for kind, lender in ((one, other) for one in blocks for other in blocks if one != other):
        if blocks[kind]["medium"] != blocks[lender]["medium"]:
            continue
        own = [
            point
            for point in points
            if ISLANDS[point.system].kind == kind and _lends(files, kind, lender, point.library)
        ]
        for point, error in errors(own, with_parameters_of(files, kind, lender)) if own else ():
            size = size_class(point.n_bytes)
            _add(found, error, all="all")
            _add(found, error, op=point.op)
            _add(found, error, op=point.op, size=size)
    return _cells(found)


def _lends(files: Raw, kind: str, lender: str, library: str) -> bool:
    """Whether a kind has parameters of a library that are not the borrower's own."""
    if library == "nccl":
        return nccl_of(files, kind) != nccl_of(files, lender)
    return library in files["inside"]["architectures"][lender]["engines"]
