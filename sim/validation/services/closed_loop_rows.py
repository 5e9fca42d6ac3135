"""Rows of the ledger from closed loops at a concurrency (`sim.validation.services.closed_loops`)."""

from __future__ import annotations

from sim.inputs.errors import InputError
from sim.reading.published_names import MODELS
from sim.results.basis import users_band
from sim.results.compared import Row
from sim.validation.checkpoint import Case
from sim.validation.services.closed_loops import ServingPoint, Simulated, point_of, run

INFERENCEX = "SemiAnalysisAI/InferenceX, through NVIDIA aiconfigurator 0.12.0 (Apache-2.0)"
NVIDIA = "NVIDIA, through NVIDIA aiconfigurator 0.12.0 (Apache-2.0)"


def rows_of_point(point: ServingPoint) -> list[Row]:
    """A point simulated: what it gives the ledger."""
    return point_rows(run(point))


def own_point_rows(case: Case) -> list[Row]:
    """The same of a row of a user's own table."""
    from pydantic import ValidationError

    point = point_of(case.cells)
    try:
        return rows_of_point(point)
    except ValidationError as error:  # cells that are in order one by one, and no service together
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{point.label}: {where} = {first['input']!r}: {first['msg']}") from error


def point_rows(one: Simulated) -> list[Row]:
    """Time per output token, time to first token and throughput of a row."""
    point = one.point
    source = INFERENCEX if point.is_inferencex else NVIDIA
    throughput = point.throughput(point.ttft_ms, point.tpot_ms), point.throughput(one.ttft_ms, one.tpot_ms)
    of = {
        "model": MODELS[point.model], "GPU": point.system.removesuffix("_sxm").upper(),
        "format": point.precision or "bf16", "engine": point.backend, "users": users_band(point.concurrency),
        "TP": str(point.tp),
    }  # fmt: skip
    return [
        Row(
            point.label, quantity, unit, published, simulated,
            "fitted" if point.is_fitted else "predicted", source, section="closed-loops",
            size=float(point.concurrency), of=of,
        )
        for quantity, unit, published, simulated in (
            ("time per output token", "ms", point.tpot_ms, one.tpot_ms),
            ("time to first token", "ms", point.ttft_ms, one.ttft_ms),
            ("output tokens of all users", "1/s", *throughput),
        )
    ]  # fmt: skip
