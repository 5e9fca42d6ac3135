"""An M/M/1 queue of 20,000 customers, beside Ciw where it is installed.

Both draw their customers and serve them, ten times in turn, and keep a row of each customer.
`played` is the same run on the clock, as whatever is unusual in a queue makes it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import sim
from benchmarks._tables import Figure, show

CUSTOMERS, LOAD, ROUNDS = 20_000, 0.8, 10


def cpu_s(run: Callable[[], Any]) -> float:
    """CPU seconds of a call."""
    begun = time.process_time()
    run()
    return time.process_time() - begun


def with_ciw(ciw: Any, seed: int) -> None:
    """The same queue by Ciw."""
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Exponential(LOAD)],
        service_distributions=[ciw.dists.Exponential(1.0)],
        number_of_servers=[1],
    )
    ciw.seed(seed)
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_customers(CUSTOMERS)
    assert len(simulation.get_all_records()) >= CUSTOMERS


def main() -> None:
    server = sim.with_changes(
        sim.load_scenario("experiments/one_server.yaml"),
        {"workload.requests": CUSTOMERS, "workload.arrivals.rate_per_s": LOAD},
    )
    runs: dict[str, Callable[[int], Any]] = {
        "folded": lambda seed: sim.simulate(server, seed=seed, check=False),
        "played": lambda seed: sim.simulate(server, seed=seed, check=False, fold=False),
    }
    try:
        ciw = import_module("ciw")
    except ImportError:
        print("Ciw is not installed: pip install ciw (the extra `oracles`)\n")
    else:
        runs["Ciw"] = lambda seed: with_ciw(ciw, seed)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for seed in range(ROUNDS):
        for name, run in runs.items():
            run(seed) if not seed else None  # the first time imports and warms up
            seconds[name].append(cpu_s(lambda run=run, seed=seed: run(seed)))  # type: ignore[misc]
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    figures = [Figure(f"{name}: CPU time of {CUSTOMERS:,}", one, "s") for name, one in medians.items()]
    if "Ciw" in medians:
        for name, goal in (("folded", 1.0), ("played", None)):
            ratio = medians[name] / medians["Ciw"]
            figures.append(Figure(f"{name} / Ciw, CPU time", ratio, goal=goal, at_most=True))
    show(figures)


if __name__ == "__main__":
    main()
