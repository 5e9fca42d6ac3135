"""What others have published of the shipped machines, beside what is simulated:
`sim/data/machine_points.yaml`.

A point is a collective alone, a path, a bisection, a kernel that streams memory, or a run. The band is that
of its basis, in the unit of the point; a figure of the links alone has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sim.catalog import load_topology
from sim.cost.network import Network
from sim.inputs.quantities import Bytes, BytesPerSecond, Seconds
from sim.inputs.topology_check import bisection_bytes_per_s
from sim.microbenchmark import collective, kernel
from sim.reading.huggingface import model_of
from sim.reading.yaml_lines import read_yaml

POINTS = Path(__file__).parents[1] / "data" / "machine_points.yaml"
Band = tuple[float, float]


@dataclass(frozen=True, slots=True)
class MachinePoint:
    """A published number of a machine, with what it is of, as written; `outside`: why the band has it not."""

    system: str
    written: Mapping[str, Any]
    source: str
    outside: str = ""

    @property
    def what(self) -> str:
        """The quantity in words."""
        kind, of = next((key, self.written[key]) for key in SIMULATED if key in self.written)
        if kind == "collective":
            servers = f" of {of['nodes']} servers" if of.get("nodes", 1) > 1 else ""
            unit = "time" if "time" in self.written else "bus bandwidth"
            return (
                f"{unit} of {of['op'].replace('_', '-')} of {of['n_bytes']} over {of['ranks']} GPUs{servers}"
            )
        if kind == "run":
            model = of["model"] if isinstance(of["model"], str) else of["model"]["name"]
            users = "1 user" if of["users"] == 1 else f"{of['users']} users"
            ranks = f" on {of['tensor_parallel_size']} GPUs" if "tensor_parallel_size" in of else ""
            quantity = "decode step" if "step" in self.written else "time per output token"
            return f"{quantity} of {model}{ranks}, {users}"
        if kind == "kernel":
            return f"memory of one {of['gpu']}, as a product of one token streams weights"
        return f"bisection, {of}" if kind == "bisection" else f"{of[0]} to {of[1]}"

    @property
    def published(self) -> tuple[float, str]:
        """Value and unit: GB/s, us or ms."""
        for key, read, scale, unit in _UNITS:
            if key in self.written:
                return float(read.validate_python(self.written[key])) * scale, unit
        raise AssertionError(self.written)

    def simulated(self) -> tuple[float, Band | None]:
        """The same quantity here, and the band that its basis puts around it."""
        kind = next(key for key in SIMULATED if key in self.written)
        value, band = SIMULATED[kind](self)
        return value, band


_RATE, _SECONDS, _BYTES = TypeAdapter(BytesPerSecond), TypeAdapter(Seconds), TypeAdapter(Bytes)
_UNITS = (
    ("busbw", _RATE, 1e-9, "GB/s"),
    ("rate", _RATE, 1e-9, "GB/s"),
    ("time", _SECONDS, 1e6, "us"),
    ("tpot", _SECONDS, 1e3, "ms"),
    ("step", _SECONDS, 1e3, "ms"),
)


def machine_points() -> Iterator[MachinePoint]:
    """All of them, in the order of the file."""
    for system, points in read_yaml(POINTS).data.items():
        for written in points:
            yield MachinePoint(system, written, written["source"], written.get("outside", ""))


def _of_collective(point: MachinePoint) -> tuple[float, Band | None]:
    of = dict(point.written["collective"])
    of["n_bytes"] = float(_BYTES.validate_python(of["n_bytes"]))
    timing = collective(point.system, **of)
    low, high = timing.basis.band or (1.0, 1.0)
    if "time" in point.written:
        return timing.total_s * 1e6, (timing.total_s * 1e6 * low, timing.total_s * 1e6 * high)
    rate = timing.busbw_bytes_per_s / 1e9
    return rate, (rate / high, rate / low)


def _of_path(point: MachinePoint) -> tuple[float, Band | None]:
    network = Network(load_topology(point.system).graph)
    return network.path(*point.written["path"]).bytes_per_s(network.capacity) / 1e9, None


def _of_bisection(point: MachinePoint) -> tuple[float, Band | None]:
    return 2.0 * bisection_bytes_per_s(load_topology(point.system).graph) / 1e9, None


def _of_kernel(point: MachinePoint) -> tuple[float, Band | None]:
    of = point.written["kernel"]
    timing = kernel(of["gpu"], "gemm", m=1, n=of["n"], k=of["k"], dtype="fp16", warm=False)
    low, high = timing.basis.band or (1.0, 1.0)
    rate = 2.0 * of["n"] * of["k"] / timing.total_s / 1e9
    return rate, (rate / high, rate / low)


def _of_run(point: MachinePoint) -> tuple[float, Band | None]:
    from sim.scenario.scenario import Scenario
    from sim.simulate import simulate

    of = dict(point.written["run"])
    users = of["users"]
    model = of["model"]
    if not isinstance(model, str):
        model = model_of({key: value for key, value in model.items() if key != "name"}, model["name"])
    engine = {key: of[key] for key in ("tensor_parallel_size", "backend") if key in of}
    longest = of["prompt_tokens"] + of["output_tokens"]
    scenario = Scenario.model_validate(
        {
            "topology": load_topology(point.system),
            "model": model,
            "precision": of.get("precision", {}),
            "engine": {**engine, "max_model_len": longest},
            "workload": {
                "arrivals": {"kind": "closed_loop", "users": users},
                "prompt_tokens": of["prompt_tokens"],
                "output_tokens": of["output_tokens"],
                "requests": of.get("requests", users),
            },
        }
    )
    result = simulate(scenario)
    assert result.basis is not None
    numbers = result.summary()
    value = numbers["median_itl_ms" if "step" in point.written else "mean_tpot_ms"]
    low, high = (side / numbers["mean_tpot_ms"] for side in result.basis.bands["mean_tpot_ms"])
    return value, (value * low, value * high)


SIMULATED = {
    "collective": _of_collective,
    "path": _of_path,
    "bisection": _of_bisection,
    "kernel": _of_kernel,
    "run": _of_run,
}
