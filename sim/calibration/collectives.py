"""Fits the parameters of `topologies/collectives/inside.yaml` to measured collectives.

    sim calibrate collectives NCCL.csv ENGINES.csv --write topologies/collectives/inside.yaml

Every fit is robust (soft L1 on the logarithm of the time, so a factor of 1.1 counts the same at 10 us and at
10 ms). How well it predicts what it did not see: `held_out_collectives`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

from sim.calibration.collective_points import ISLANDS, CollectivePoint, is_modelled, island_network
from sim.calibration.fitting import CurveErrors, Floats, log_fit
from sim.cost.collectives.choice import collective
from sim.cost.collectives.parameters import Parameters, collectives_folder, parameters_of
from sim.cost.network import Network
from sim.results.compared import ErrorSummary

Raw = dict[str, Any]
"""The text of a parameter file as dicts and numbers."""

FLOORS = {
    ("Simple", "base_s"): 8.4e-6,
    ("Simple", "hop_s"): 1.2e-6,
    ("switch", "base_s"): 18e-6,
    ("switch", "fill_bytes"): 5e5,
    ("direct", "efficiency"): 0.75,
}
"""Floors that keep algorithms apart where the points cannot: NCCL's own base of Simple (tuning.cc); for a
hop of Simple 1.5 of that of LL, whose flags travel with the data; for NVLS what a first megabyte in 26 us
leaves at least, and a pipeline of at least a slice per rank; for grouped sends that links are not what
holds a pair back.
"""


class FreeNumber(NamedTuple):
    """A number in `architectures` of the raw parameters that a fit may change, and its bounds."""

    path: tuple[str, ...]
    low: float
    high: float


def fit_block(files: Raw, free: Sequence[FreeNumber], measured: Sequence[CollectivePoint]) -> Raw:
    """The files with the free numbers fitted to points."""
    files = deepcopy(files)
    blocks = [_block_of(files, number.path) for number in free]
    networks = _networks_of(measured)

    def of_measured(values: Floats) -> list[float]:
        for number, block, value in zip(free, blocks, values, strict=True):
            # The logarithm of a bound comes back as the bound only to the last digit or so.
            block[number.path[-1]] = float(min(max(value, number.low), number.high))
        return ratios(measured, parameters_of(files), networks)

    start = [float(block[number.path[-1]]) for number, block in zip(free, blocks, strict=True)]
    of_measured(log_fit(of_measured, start, [(one.low, one.high) for one in free], max_nfev=60))
    return files


def _block_of(files: Raw, path: tuple[str, ...]) -> dict[str, Any]:
    block: Any = files["inside"]["architectures"]
    for name in path[:-1]:
        block = block[name]
    found: dict[str, Any] = block
    return found


def _networks_of(measured: Sequence[CollectivePoint]) -> dict[tuple[str, int], Network]:
    islands = {(point.system, point.gpus) for point in measured}
    return {island: island_network(*island) for island in islands}


def ratios(
    measured: Sequence[CollectivePoint], parameters: Parameters, networks: Mapping[tuple[str, int], Network]
) -> list[float]:
    """Modelled over measured time of each point."""
    # A network remembers the offers of libraries, which other parameters make anew; routes it may keep.
    for network in networks.values():
        network.remembered.forget_offers()
    found = []
    for point in measured:
        network = networks[point.system, point.gpus]
        timing = collective(
            network, point.op, point.n_bytes, network.gpus, library=point.library, parameters=parameters
        )
        found.append(timing.total_s / point.seconds)
    return found


def free_numbers(kind: str, library: str, files: Raw) -> list[FreeNumber]:
    """The numbers of one kind of GPU that a library's points decide, with bounds that keep them physical."""
    block = files["inside"]["architectures"][kind]
    if isinstance(block["nccl"], str) and library in ("nccl", "direct"):
        return []
    bounds = {
        "base_s": (5e-7, 1e-4),
        "hop_s": (6e-7, 3e-5),
        "rank_s": (1e-9, 4e-6),
        "slice_s": (1e-9, 3e-6),
        "slice_bytes": (100.0, 1e6),
        "fill_s": (1e-9, 1e-4),
        "fill_rank_s": (1e-9, 1e-5),
        "fill_bytes": (1e4, 3e7),
        "bytes_per_s": (1e9, 1e12),
        "efficiency": (0.05, 1.0),
        "local_bytes_per_s": (1e10, 1e13),
    }
    free: list[FreeNumber] = []

    def add(path: tuple[str, ...], values: Mapping[str, Any]) -> None:
        for name in values:
            if name in bounds:
                low, high = bounds[name]
                free.append(FreeNumber((kind, *path, name), FLOORS.get((path[-1], name), low), high))

    if library == "nccl":
        for protocol, values in block["nccl"]["ring"].items():
            add(("nccl", "ring", protocol), values)
        free.append(FreeNumber((kind, "nccl", "local_bytes_per_s"), *bounds["local_bytes_per_s"]))
        if block["nccl"].get("switch"):
            add(("nccl", "switch"), block["nccl"]["switch"])
    elif library == "direct":
        add(("nccl", "direct"), block["nccl"]["direct"])
    else:
        for kernel, values in block["engines"][library]["kernels"].items():
            add(("engines", library, "kernels", kernel), values)
    return free


def chosen(measured: Sequence[CollectivePoint], kind: str, library: str, files: Raw) -> list[CollectivePoint]:
    """The points that a fit of (kind, library) looks at."""
    found = []
    for point in measured:
        own = ISLANDS[point.system].kind
        if library in ("nccl", "direct"):
            nccl_block = files["inside"]["architectures"][own]["nccl"]
            own = nccl_block if isinstance(nccl_block, str) else own
        if own != kind:
            continue
        if not is_modelled(point):
            continue
        if library in ("nccl", "direct"):
            if point.library == "nccl" and (point.op == "all_to_all") == (library == "direct"):
                found.append(point)
        elif point.library == library:
            steps = files["inside"]["architectures"][kind]["engines"][library]["choice"].get(point.gpus, ())
            if steps and point.n_bytes < float(steps[-1][1]):
                found.append(point)
    return found


def fitted(files: Raw, measured: Sequence[CollectivePoint], kinds: Sequence[str] | None = None) -> Raw:
    """All blocks of all kinds of GPU fitted, one after another; a block with fewer points than free numbers
    stays as it is.
    """
    for kind, block in files["inside"]["architectures"].items():
        if kinds is not None and kind not in kinds:
            continue
        for library in ("nccl", "direct", *block["engines"]):
            looked_at = chosen(measured, kind, library, files)
            free = free_numbers(kind, library, files) if looked_at else []
            if free and len(looked_at) >= len(free):
                files = fit_block(files, free, looked_at)
    return files


def shipped() -> Raw:
    """The parameter files as they are now."""
    import yaml

    return {
        path.stem: yaml.safe_load(path.read_text()) for path in sorted(collectives_folder().glob("*.yaml"))
    }


def with_parameters_of(files: Raw, kind: str, lender: str) -> Raw:
    """The files with the collectives of one kind of GPU replaced by those of another."""
    borrowed = deepcopy(files)
    blocks = borrowed["inside"]["architectures"]
    blocks[kind]["engines"] = deepcopy(blocks[lender]["engines"])
    blocks[kind]["nccl"] = deepcopy(blocks[nccl_of(files, lender)]["nccl"])
    return borrowed


def nccl_of(files: Raw, kind: str) -> str:
    """The kind of GPU whose NCCL parameters a kind has: its own, or those that it names."""
    block = files["inside"]["architectures"][kind]["nccl"]
    return block if isinstance(block, str) else kind


def errors(measured: Sequence[CollectivePoint], files: Raw) -> list[tuple[CollectivePoint, float]]:
    """Relative error of every point."""
    found = ratios(measured, parameters_of(files), _networks_of(measured))
    return [(point, ratio - 1.0) for point, ratio in zip(measured, found, strict=True)]


def rounded(value: Any) -> Any:
    """Numbers to four digits, all the way down: no more is known."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def as_yaml(files: Raw) -> str:
    """The text of `inside.yaml`."""
    import yaml

    head = """\
# What NCCL and the engines' own all-reduce cost inside an island, per kind of GPU: seconds, bytes/s. The
# names are explained in sim/cost/collectives/parameters.py. `choice` (ranks -> kernel, below how many bytes)
# is the engines' own table where they publish one (vLLM all_reduce_utils.py), else where their timings
# change slope. Written by `sim calibrate collectives MEASURED --write`.

"""
    text: str = yaml.safe_dump(rounded(files["inside"]), sort_keys=False, width=118, default_flow_style=None)
    return head + text


def by_curve(
    how: str,
    found: Sequence[tuple[CollectivePoint, float]],
    alpha_beta: Callable[[CollectivePoint], float] | None = None,
) -> list[CurveErrors]:
    """Errors of points by system, library, op and ranks, in the order in which these first come; beside them
    those of a plain model that gives seconds.
    """
    groups: dict[tuple[str, str, str, int], list[tuple[CollectivePoint, float]]] = {}
    for point, error in found:
        groups.setdefault((point.system, point.library, point.op, point.gpus), []).append((point, error))
    return [
        CurveErrors(
            how,
            *curve,
            ErrorSummary.of([error for _, error in of]),
            ErrorSummary.of([alpha_beta(point) / point.seconds - 1.0 for point, _ in of])
            if alpha_beta
            else None,
        )
        for curve, of in groups.items()
    ]
