"""How time grows with the size of what is simulated, as an exponent: 1 is linear, 2 is quadratic.

Each row is CPU time at one size against a quarter of it, in one process, of the quickest of two runs, or of
as many as fit in a second. What is the same at every size (start-up, tables that are read once) is in both,
so that small exponents are flattered where it counts. The goal is n log n, a little more than 1 at these
sizes. A later turn of a session goes once through the blocks of its text, some 0.2 us each: the turns of one
session grow with the square where that is most of their time.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks._tables import Figure, show

TIMES = 4
Work = Callable[[int], Callable[[], object]]


def main() -> None:
    show(_figures())


def _figures() -> Iterator[Figure]:
    for what, size, work in CASES:
        small, large = _seconds(work(size // TIMES)), _seconds(work(size))
        exponent = math.log(large / small) / math.log(TIMES)
        n_log_n = 1.0 + math.log(math.log(size) / math.log(size // TIMES)) / math.log(TIMES)
        goal = math.ceil(100 * n_log_n) / 100
        yield Figure(f"{what}: {size // TIMES:,} to {size:,}", exponent, "", goal, at_most=True)
        yield Figure("... CPU time at the larger size", large, "s")


def _seconds(run: Callable[[], object]) -> float:
    taken: list[float] = []
    while len(taken) < 2 or (sum(taken) < 1.0 and len(taken) < 10):
        gc.collect()  # what the run before has left is not this one's
        began = time.process_time()
        run()
        taken.append(time.process_time() - began)
    return min(taken)


def _service(**changes: Any) -> Callable[[], object]:
    import sim

    data = {"topology": "nd-h100-v5", "model": "llama-3-8b", **changes}
    scenario = sim.Scenario.model_validate(data)
    return lambda: sim.simulate(scenario)


def _traffic(requests: int, rate_per_s: float = 20.0, **changes: Any) -> dict[str, Any]:
    arrivals = {"kind": "poisson", "rate_per_s": rate_per_s}
    return {"arrivals": arrivals, "prompt_tokens": 100, "output_tokens": 10, "requests": requests, **changes}


def requests(n: int) -> Callable[[], object]:
    return _service(workload=_traffic(n))


def waiting(n: int) -> Callable[[], object]:
    """All at once, in two classes of different priority."""
    classes = {"one": {"priority": 1}, "two": {"priority": 2}}
    burst = _traffic(n, arrivals={"kind": "burst"}, classes=classes)
    return _service(workload=burst, engine={"scheduling_policy": "priority", "max_num_seqs": 64})


def turns_of_many(n: int) -> Callable[[], object]:
    starts = {"kind": "poisson", "rate_per_s": 5.0}
    sessions = {"kind": "sessions", "starts": starts, "turns": 10, "tool_delay_s": 0.1}
    return _service(workload=_traffic(n, arrivals=sessions, prompt_tokens=5))


def turns_of_one(n: int) -> Callable[[], object]:
    sessions = {"kind": "sessions", "starts": {"kind": "burst"}, "turns": n, "tool_delay_s": 0.1}
    return _service(workload=_traffic(n, arrivals=sessions, prompt_tokens=1, output_tokens=1))


def replicas(n: int) -> Callable[[], object]:
    """As many requests for each."""
    return _service(nodes=n // 8, replicas=n, workload=_traffic(20 * n, 5.0 * n))


def classes(n: int) -> Callable[[], object]:
    """As many requests for each."""
    named = {f"class {number}": {"share": 1.0} for number in range(n)}
    return _service(workload=_traffic(40 * n, 20.0, classes=named))


def faults(n: int) -> Callable[[], object]:
    """Cuts of one link, each with ten requests around it."""
    at_s = [0.5 * number for number in range(n)]
    cuts = [{"link": "node0.gpu0->nvlink0", "at_s": s, "until_s": s + 0.1, "capacity": 0.5} for s in at_s]
    return _service(workload=_traffic(10 * n), engine={"tensor_parallel_size": 2}, faults=cuts)


def layers(n: int) -> Callable[[], object]:
    """Played op by op, where they are counted one by one."""
    import sim

    model = {**sim.load_model("llama-3-8b").model_dump(), "layers": n}
    data = {"topology": "nd-h100-v5", "model": model, "workload": _traffic(20)}
    scenario = sim.Scenario.model_validate(data)
    return lambda: sim.simulate(scenario, fold=False)


def compiled_links(n: int) -> Callable[[], object]:
    from sim.catalog import load_topology
    from sim.cost.network import Network

    def run() -> object:
        return Network(load_topology("nd-h100-v5", nodes=n).graph)

    return run


def all_to_all(n: int) -> Callable[[], object]:
    from sim.catalog import load_topology
    from sim.cost.collectives.demands import demand
    from sim.cost.network import Network

    graph = load_topology("nd-h100-v5", nodes=n // 8).graph

    def run() -> object:
        network = Network(graph)
        return demand(network, "all_to_all", "direct", 1.0, network.gpus)

    return run


def experts(n: int) -> Callable[[], object]:
    from sim.catalog import load_topology
    from sim.cost.collectives.expert_exchange import ExpertChoice, exchange
    from sim.cost.network import Network

    graph = load_topology("nd-h100-v5", nodes=n // 8).graph

    def run() -> object:
        network = Network(graph)
        return exchange(network, "dispatch", network.gpus, 1.0, 7168.0, ExpertChoice(256, 8))

    return run


def trace_rows(n: int) -> Callable[[], object]:
    import tempfile
    from pathlib import Path

    from sim.reading.traces import read_trace

    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "trace.csv"
    rows = "".join(f"{0.01 * row:.2f},{100 + row % 400},{10 + row % 50}\n" for row in range(n))
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    return lambda: (folder, read_trace(path))


def sweep_points(n: int) -> Callable[[], object]:
    """In this process, one after the other."""
    import sim
    from sim.studies.points import Point, row_of

    data = {"topology": "nd-h100-v5", "model": "llama-3-8b", "workload": _traffic(20)}
    scenario = sim.Scenario.model_validate(data)
    return lambda: [row_of(scenario, Point(0, (), seed)) for seed in range(n)]


CASES: tuple[tuple[str, int, Work], ...] = (
    ("requests", 20_000, requests),
    ("requests that wait by priority", 12_000, waiting),
    ("turns of sessions of ten turns", 12_000, turns_of_many),
    ("turns of one session", 4_000, turns_of_one),
    ("replicas, with as many requests each", 64, replicas),
    ("classes, with as many requests each", 256, classes),
    ("faults of a link, with as many requests each", 256, faults),
    ("layers, played", 128, layers),
    ("servers of a compiled network", 256, compiled_links),
    ("ranks of an all-to-all", 1_024, all_to_all),
    ("ranks of an expert exchange", 1_024, experts),
    ("rows of a trace", 400_000, trace_rows),
    ("points of a sweep", 64, sweep_points),
)
