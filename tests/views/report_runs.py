"""A small run with everything that a report shows: pools, a pipeline, a KV tier, faults, objectives."""

from __future__ import annotations

from sim.scenario import Scenario
from tests.results.verdict_scenarios import described, pool


def everything() -> Scenario:
    workload = {
        "arrivals": {"kind": "poisson", "rate_per_s": 40},
        "prompt_tokens": 300, "output_tokens": 20, "requests": 60,
        "slo": {"ttft_ms": 20, "tpot_ms": 5},
    }  # fmt: skip
    tiers = {"host": {"capacity_bytes": "8 GB"}}
    pools = {
        "prefill": pool(1, "prefill", tensor_parallel_size=2),
        "decode": pool(1, "decode", tensor_parallel_size=2, pipeline_parallel_size=2, kv_tiers=tiers),
    }
    faults = [{"at_s": 0.5, "until_s": 0.8, "replica": 1}, {"at_s": 1e6, "replica": 0}]
    return described(nodes=2, pools=pools, faults=faults, workload=workload)
