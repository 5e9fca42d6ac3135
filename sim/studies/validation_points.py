"""Rows of the ledger from closed loops at a concurrency (`sim.studies.serving_points`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sim.inputs.errors import InfeasibleError, UnfinishedError
from sim.studies.ledger import LedgerRow
from sim.studies.serving_points import MODELS, Point, Simulated, absolute, read_points, run

INFERENCEX = "SemiAnalysisAI/InferenceX, through NVIDIA aiconfigurator 0.12.0 (Apache-2.0)"
NVIDIA = "NVIDIA, through NVIDIA aiconfigurator 0.12.0 (Apache-2.0)"

GROUPS: dict[str, Callable[[Point], str]] = {
    "model": lambda point: MODELS[point.model],
    "GPU": lambda point: point.system.removesuffix("_sxm").upper(),
    "format": lambda point: point.precision or "bf16",
    "engine": lambda point: point.backend,
    "users": lambda point: _band(point.concurrency),
    "TP": lambda point: str(point.tp),
}


def simulate_points(path: Path, processes: int = 1) -> list[Simulated]:
    """Every row of a table that fits its GPUs, simulated."""
    points = read_points(path)
    if processes == 1:
        return [one for one in map(_run, points) if one is not None]
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(processes) as pool:
        return [one for one in pool.map(_run, points, chunksize=4) if one is not None]


def _run(point: Point) -> Simulated | None:
    try:
        return run(point)
    except (InfeasibleError, UnfinishedError):
        return None


def point_rows(one: Simulated) -> Iterator[LedgerRow]:
    """Time per output token, time to first token and throughput of a row."""
    point = one.point
    source = INFERENCEX if point.is_inferencex else NVIDIA
    throughput = point.throughput(point.ttft_ms, point.tpot_ms), point.throughput(one.ttft_ms, one.tpot_ms)
    for quantity, unit, published, simulated in (
        ("time per output token", "ms", point.tpot_ms, one.tpot_ms),
        ("time to first token", "ms", point.ttft_ms, one.ttft_ms),
        ("output tokens of all users", "1/s", *throughput),
    ):
        yield LedgerRow(
            point.label, quantity, unit, published, simulated,
            "fitted" if point.is_fitted else "predicted", source, size=float(point.concurrency),
        )  # fmt: skip


def by_group(simulated: Sequence[Simulated]) -> list[dict[str, object]]:
    """Errors of rows that nothing was fitted on, by model, GPU, format, engine, users and TP."""
    rows: list[dict[str, object]] = []
    predicted = [one for one in simulated if not one.point.is_fitted]
    for title, key in {"all": lambda _: "all", **GROUPS}.items():
        groups: dict[str, list[Simulated]] = defaultdict(list)
        for one in predicted:
            groups[key(one.point)].append(one)
        for name in sorted(groups, key=lambda name: (len(name), name) if title in ("TP", "users") else name):
            members = groups[name]
            tpot, ttft, throughput = (
                absolute([getattr(one, f"{quantity}_error") for one in members])
                for quantity in ("tpot", "ttft", "throughput")
            )
            rows.append(
                {
                    "by": title, "group": name, "rows": len(members), "tpot_median": tpot[0],
                    "tpot_p90": tpot[1], "throughput_median": throughput[0], "throughput_p90": throughput[1],
                    "ttft_median": ttft[0], "ttft_p90": ttft[1],
                }
            )  # fmt: skip
    return rows


def _band(users: int) -> str:
    for most in (4, 16, 64, 128):
        if users <= most:
            return f"up to {most}"
    return "more than 128"
