"""A sweep of 1,000 small runs: how busy it keeps all processors.

The CPU time of the worker processes over wall time times processors. A machine that others use too has less
to give: then compare with what plain busy loops get in the same minute.
"""

from __future__ import annotations

import os
import resource
import time
from concurrent.futures import ProcessPoolExecutor

from benchmarks._tables import Figure, show
from sim.scenario.scenario import Scenario
from sim.studies.sweep import sweep

POINTS = 1000


def scenario() -> Scenario:
    return Scenario.model_validate(
        {
            "topology": "a100-x4",
            "model": "llama-3-8b",
            "workload": {
                "arrivals": {"kind": "poisson", "rate_per_s": 4.0},
                "prompt_tokens": {"kind": "lognormal", "mean": 300, "cv": 1.0},
                "output_tokens": {"kind": "lognormal", "mean": 100, "cv": 1.0},
                "requests": 200,
            },
        }
    )


def children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def spin(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def busy_loops(seconds: float = 3.0) -> float:
    """The share of the processors that plain busy loops get at this moment."""
    processors = os.cpu_count() or 1
    before, started = children_cpu_s(), time.monotonic()
    with ProcessPoolExecutor(processors) as pool:
        list(pool.map(spin, [seconds] * processors))
    return (children_cpu_s() - before) / (time.monotonic() - started) / processors


def main() -> None:
    processors = os.cpu_count() or 1
    loops = busy_loops()
    before, own, started = children_cpu_s(), time.process_time(), time.monotonic()
    found = sweep(
        scenario(), {"engine.tensor_parallel_size": [1, 2, 4, 8]}, seeds=range(POINTS // 4), progress=False
    )
    wall_s = time.monotonic() - started
    workers = (children_cpu_s() - before) / wall_s / processors
    loops = (loops + busy_loops()) / 2
    done = sum(row.status == "done" for row in found.rows)
    show(
        [
            Figure("points with numbers", done),
            Figure("points that cannot be (TP8 on four GPUs), each with its reason", len(found.infeasible)),
            Figure("points per second", POINTS / wall_s),
            Figure("share of the processors that the workers had", workers),
            Figure("share that busy loops got before and after", loops),
            Figure("the first of the second", workers / loops, "", 0.9),
            Figure(
                "CPU time of the sweeping process itself, a point",
                (time.process_time() - own) / POINTS * 1e3,
                "ms",
            ),
        ]
    )


if __name__ == "__main__":
    main()
