"""Watts and joules of measured services beside those of the same services, simulated."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping

from sim.reading.data_files import measured
from sim.results.compared import Row
from sim.results.energy import Energy
from sim.scenario.scenario import Scenario
from sim.simulate import simulate
from sim.validation.tokens_in_time import tokens_between

SOURCE = "ML.ENERGY leaderboard v3, February 2026"
HOST_FITTED_ON = ("Llama-3.1-70B",)  # of the models of `cost/host_time.py`
TURNS = 3  # requests of each user: the first fill the batch, the last empty it
SETTLED = 1 / 3  # of the arrivals: from here to the last arrival all users are there


def power_rows() -> Iterator[Row]:
    """The rows of the ledger. Watts were among those that constants were fitted to."""
    with (measured() / "power" / "services.csv").open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            yield from _rows(row)


def _rows(row: Mapping[str, str]) -> Iterator[Row]:
    users = int(row["users"])
    length = {"kind": "lognormal", "mean": float(row["output_tokens"]), "cv": 0.5}
    scenario = Scenario.model_validate(
        {
            "topology": row["system"],
            "model": row["shipped"],
            "precision": {"weights": row["weights"]},
            "engine": {
                "tensor_parallel_size": int(row["tensor_parallel_size"]),
                "enable_expert_parallel": row["expert_parallel"] == "1",
                # vLLM 0.11: what its gaps between tokens lack grows with the sequences, as of a host that
                # GPUs wait for.
                "async_scheduling": False,
                "max_num_seqs": max(users, 8),
                "max_model_len": 8192,
            },
            "workload": {
                "arrivals": {"kind": "closed_loop", "users": users},
                "requests": TURNS * users,
                "prompt_tokens": {"kind": "fixed", "tokens": int(row["prompt_tokens"])},
                "output_tokens": length,
            },
        }
    )
    result = simulate(scenario)
    energy = result.energy
    assert isinstance(energy, Energy), energy.why
    arrivals = result.records.requests["arrival_s"]
    begin, end = float(arrivals.max()) * SETTLED, float(arrivals.max())
    watts = energy.joules_between(begin, end) / (end - begin)
    itl_ms = float(result.summary()["median_itl_ms"])
    gpus = int(row["gpus"])
    case = f"{row['model']} on {gpus} {row['gpu']}, {users} users"
    of = {"model": row["model"], "gpu": row["gpu"], "engine": "vllm"}
    yield Row(
        case, "power of a GPU", "W", float(row["watts_a_gpu"]), watts / gpus, "fitted", SOURCE,
        size=users, of=of,
    )  # fmt: skip
    tokens_per_s = tokens_between(result.records.requests, begin, end) / (end - begin)
    yield Row(
        case, "energy of an output token", "J", float(row["j_a_token"]), watts / tokens_per_s, "predicted",
        SOURCE, size=users, of=of,
    )  # fmt: skip
    if row["median_itl_ms"]:
        yield Row(
            case, "median ITL", "ms", float(row["median_itl_ms"]), itl_ms,
            "fitted" if row["model"] in HOST_FITTED_ON else "predicted", SOURCE, size=users, of=of,
        )  # fmt: skip
