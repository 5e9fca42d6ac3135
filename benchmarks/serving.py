"""Whole services, each in a process of its own: an hour of a rack, the same as P/D pools, 1,024 GPUs.

Requests arrive as a Poisson process with lengths drawn from the Azure conversation sample of 2023; the full
scheduler, every layer and every collective on the fabric, folded. Times are CPU seconds of `simulate`; memory
is the peak of the whole process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks._tables import Figure, show

AZURE = {"kind": "trace", "name": "azure-llm-2023-conversation"}


def _workload(requests: int, seconds: float, **changes: Any) -> dict[str, Any]:
    return {
        "arrivals": {"kind": "poisson", "rate_per_s": requests / seconds},
        "prompt_tokens": AZURE,
        "output_tokens": AZURE,
        "requests": requests,
        **changes,
    }


def rack(requests: int = 10_000, **changes: Any) -> dict[str, Any]:
    """An hour of a GB200 NVL72 rack serving Llama-3-70B as nine TP8 replicas."""
    return {
        "topology": "gb200-nvl72",
        "model": "llama-3-70b",
        "precision": {"weights": "fp8"},
        "replicas": 9,
        "engine": {"tensor_parallel_size": 8, "max_num_seqs": 256},
        "workload": _workload(requests, 3600.0),
        **changes,
    }


def split_rack(requests: int = 10_000) -> dict[str, Any]:
    """The same with three replicas for prompts and six for answers; KV caches cross NVLink."""
    data = rack(requests)
    engine = data.pop("engine")
    del data["replicas"]
    data["pools"] = {
        "prefill": {"role": "prefill", "replicas": 3, "engine": engine},
        "decode": {"role": "decode", "replicas": 6, "engine": engine},
    }
    return data


def fat_tree(requests: int = 100_000, longer: int = 1) -> dict[str, Any]:
    """128 servers of eight H100 on a two-tier fat tree, a TP8 replica on each; `longer` stretches answers."""
    workload = _workload(requests, 3600.0)
    if longer > 1:
        workload["output_tokens"] = {"kind": "lognormal", "mean": 211.0 * longer, "cv": 0.8}
    return {
        "topology": "nd-h100-v5",
        "nodes": 128,
        "model": "llama-3-70b",
        "replicas": 128,
        "engine": {"tensor_parallel_size": 8, "max_num_seqs": 256},
        "workload": workload,
    }


def steady(users: int = 64, requests: int = 1_000) -> dict[str, Any]:
    """One replica with a constant number of requests in it."""
    return {
        "topology": "nd-h100-v5",
        "model": "llama-3-70b",
        "engine": {"tensor_parallel_size": 8},
        "workload": {
            "arrivals": {"kind": "closed_loop", "users": users},
            "prompt_tokens": AZURE,
            "output_tokens": AZURE,
            "requests": requests,
        },
    }


CASES = {
    "rack": rack,
    "split_rack": split_rack,
    "rack_100k": lambda: rack(100_000),
    "fat_tree": fat_tree,
    "fat_tree_10k": lambda: fat_tree(10_000),
    "fat_tree_longer": lambda: fat_tree(10_000, longer=4),
    "steady": lambda: steady(requests=10_000),
    "steady_256": lambda: steady(users=256, requests=10_000),
    "experts": lambda: {
        **steady(),
        "nodes": 2,
        "model": "deepseek-v3",
        "precision": {"weights": "fp8_block"},
        "engine": {"data_parallel_size": 16, "enable_expert_parallel": True},
    },
    "pipeline": lambda: {**steady(), "engine": {"tensor_parallel_size": 2, "pipeline_parallel_size": 4}},
    "pipeline_two_servers": lambda: {
        **steady(),
        "nodes": 2,
        "engine": {"tensor_parallel_size": 8, "pipeline_parallel_size": 2},
    },
    "pipeline_one_user": lambda: {
        **steady(users=1, requests=100),
        "nodes": 2,
        "engine": {"tensor_parallel_size": 8, "pipeline_parallel_size": 2},
    },
    "pipeline_own_links": lambda: {
        **steady(users=16, requests=400),
        "model": "llama-3-8b",
        "engine": {"pipeline_parallel_size": 4, "pipeline_split": "even"},
    },
}


def measured(case: str) -> dict[str, float]:
    """One case in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.serving", case]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{case}: {done.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(done.stdout))


def run_here(case: str) -> dict[str, float]:
    """CPU seconds, peak MB, and what was simulated."""
    import resource
    import time

    from sim.scenario.scenario import Scenario
    from sim.simulate import simulate

    scenario = Scenario.model_validate(CASES[case]())
    started = time.process_time()
    result = simulate(scenario)
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    steps = result.records.steps
    first_stage = steps["stage"] == 0
    return {
        "cpu_s": seconds,
        "peak_mb": peak,
        "simulated_s": result.end_s,
        "requests": float(len(result.records.requests)),
        "tokens": float(result.records.requests["generated_tokens"].sum()),
        "steps": float(steps["steps"][first_stage].sum()),
        "stage_steps": float(steps["steps"].sum()),
        "spans": float(len(steps)),
    }


def main() -> None:
    got = {case: measured(case) for case in CASES}

    def stage_us(case: str) -> float:
        return got[case]["cpu_s"] / got[case]["stage_steps"] * 1e6

    a_rack, split, tree = got["rack"], got["split_rack"], got["fat_tree"]
    small, longer, many = got["fat_tree_10k"], got["fat_tree_longer"], got["rack_100k"]
    show(
        [
            Figure("rack hour, 10,000 requests: CPU time", a_rack["cpu_s"], "s", 8, at_most=True),
            Figure("rack hour: peak memory", a_rack["peak_mb"], "MB", 400, at_most=True),
            Figure("rack hour: simulated seconds per CPU second", a_rack["simulated_s"] / a_rack["cpu_s"]),
            Figure("rack hour: requests per CPU second", a_rack["requests"] / a_rack["cpu_s"]),
            Figure("rack hour: engine steps per CPU second", a_rack["steps"] / a_rack["cpu_s"], "", 50_000),
            Figure("rack hour, 100,000 requests: CPU time", many["cpu_s"], "s"),
            Figure(
                "P/D rack hour: CPU time, of the rack hour's",
                split["cpu_s"] / a_rack["cpu_s"],
                "x",
                1.5,
                at_most=True,
            ),
            Figure("P/D rack hour: peak memory", split["peak_mb"], "MB"),
            Figure(
                "64 always in service: engine steps per CPU second",
                got["steady"]["steps"] / got["steady"]["cpu_s"],
                "",
                50_000,
            ),
            *(
                Figure(
                    f"{users} always in service: CPU time a change of the batch",
                    got[case]["cpu_s"] / got[case]["spans"] * 1e6,
                    "us",
                    goal,
                    at_most=True,
                )
                for users, case, goal in ((64, "steady", 50), (256, "steady_256", None))
            ),
            Figure("64 in service, TP2 x PP4: CPU time a step and stage", stage_us("pipeline"), "us"),
            Figure(
                "64 in service, TP8 x PP2 over two servers: CPU time a step and stage",
                stage_us("pipeline_two_servers"),
                "us",
                50,
                at_most=True,
            ),
            Figure(
                "1 in service, TP8 x PP2 over two servers: CPU time a step and stage",
                stage_us("pipeline_one_user"),
                "us",
            ),
            Figure(
                "16 in service, PP4, links of its own: CPU time a step and stage",
                stage_us("pipeline_own_links"),
                "us",
            ),
            Figure(
                "64 in service, EP16 over two servers: CPU time a change of the batch",
                got["experts"]["cpu_s"] / got["experts"]["spans"] * 1e6,
                "us",
                350,
                at_most=True,
            ),
            Figure("1,024 GPUs, 100,000 requests: CPU time", tree["cpu_s"], "s", 20, at_most=True),
            Figure("1,024 GPUs, 100,000 requests: peak memory", tree["peak_mb"], "MB"),
            Figure("1,024 GPUs, 10,000 requests: peak memory", small["peak_mb"], "MB"),
            Figure(
                "1,024 GPUs: bytes a further request",
                (tree["peak_mb"] - small["peak_mb"]) / 90_000 * 1e6,
                "B",
            ),
            Figure(
                "1,024 GPUs, 10,000 requests, answers 4 times as long: peak memory", longer["peak_mb"], "MB"
            ),
            Figure("... tokens, of those of the shorter answers", longer["tokens"] / small["tokens"], "x"),
        ]
    )


if __name__ == "__main__":
    print(json.dumps(run_here(sys.argv[1])))
