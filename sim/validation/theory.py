"""Rows of the ledger from theory: the runtime as a textbook queue, and closed forms of collectives.

"Published" is here what the formula gives. Queues are simulated with a seed and ten thousand requests, so
that some percent of the difference are chance; closed forms must agree to the last digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sim.catalog import load_model, load_topology
from sim.cost.collectives.choice import collective
from sim.cost.network import Network
from sim.results.compared import Row
from sim.scenario.scenario import Scenario
from sim.simulate import simulate
from sim.theory import queueing

THEORY = "queueing theory (sim.theory.queueing)"
CLOSED_FORM = "closed form"
REQUESTS = 10_000
TOKENS = 100_000  # mean of a geometric length whose law is exponential to five digits


def law_rows() -> Iterator[Row]:
    """Mean waits of queues that have formulas, half loaded."""
    exponential = {"kind": "geometric", "mean": TOKENS, "high": 64 * TOKENS}
    uniform = {"kind": "uniform", "low": 1, "high": 2 * TOKENS - 1}
    per_token = {"token_s": 1.0 / TOKENS}
    for rho in (0.5,):
        queues: list[tuple[str, int, dict[str, float], Any, float]] = [
            ("M/M/1", 1, per_token, exponential, queueing.mm1(rho, 1.0).Wq),
            ("M/D/1", 1, {"step_s": 1.0}, 1, queueing.md1(rho, 1.0).Wq),
            ("M/G/1, uniform service", 1, per_token, uniform, queueing.mg1(rho, 1.0, 1.0 / 3.0).Wq),
            ("M/M/4", 4, per_token, exponential, queueing.mmc(4 * rho, 1.0, 4).Wq),
        ]
        for name, servers, service, prompt, wait_s in queues:
            result = simulate(_server(rho * servers, servers, service, prompt), seed=1)
            frame = result.requests
            waited = (frame["finished_s"] - frame["arrival_s"]).to_numpy().mean() - 1.0
            case = f"{name} at load {rho:g}"
            yield Row(case, "mean wait", "s", wait_s, float(waited), "predicted", THEORY)


def _server(rate_per_s: float, servers: int, service: dict[str, float], prompt: Any) -> Scenario:
    return Scenario.model_validate(
        {
            "topology": "a100-x4",
            "model": "llama-3-8b",
            "replicas": servers,
            "router": "central_queue",
            "engine": {
                "scheduler": "one_at_a_time",
                "service_time": service,
                "enable_prefix_caching": False,
            },
            "workload": {
                "arrivals": {"kind": "poisson", "rate_per_s": rate_per_s},
                "prompt_tokens": prompt,
                "output_tokens": 1,
                "requests": REQUESTS,
            },
        }
    )


def formula_rows() -> Iterator[Row]:
    """Collectives without software time against bytes over links, and the sizes of models."""
    n_bytes = 2.0**30
    for name, ranks in (("nd-h100-v5", 8), ("a100-x4", 4), ("hgx-b200", 8)):
        network = Network(load_topology(name).graph)
        members = network.gpus[:ranks]
        rate = min(network.capacity[link] for link in network.path(members[0], members[1]).links)
        shares = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1.0}
        for op, share in shares.items():
            expected_s = share * (ranks - 1) / ranks * n_bytes / rate
            timing = collective(network, op, n_bytes, members, library="none")
            min_flow_s = timing.bytes_s
            case = f"{name}, {ranks} GPUs, 1 GiB, bytes alone"
            yield Row(case, op, "ms", 1e3 * expected_s, 1e3 * min_flow_s, "predicted", CLOSED_FORM)
    for name, billions in (("llama-3-70b", 70.55), ("qwen2.5-72b", 72.71), ("deepseek-v3", 671.0)):
        parameters = load_model(name).parameters / 1e9
        source = "published checkpoint"
        yield Row(name, "parameters", "10^9", billions, parameters, "predicted", source)
