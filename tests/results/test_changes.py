from __future__ import annotations

import sim
from tests.results.verdict_scenarios import BURST, described, poisson


def test_preemptions_faults_and_resubmissions_are_told_with_their_times() -> None:
    few = {"num_gpu_blocks_override": 40, "max_model_len": 600, "watermark": 0.0}
    longer = {**BURST, "prompt_tokens": 60, "output_tokens": 200, "requests": 8}
    result = sim.simulate(described(engine=few, workload=longer))
    told = result.explain()
    assert "preemptions" in told.about("changes")[0]
    assert told[-2].numbers["c0_n"] == result.summary()["preemptions"] > 0
    tiers = {"tensor_parallel_size": 2, "kv_tiers": {"host": {"capacity_bytes": "1 GB"}}}
    fault = {"at_s": 0.3, "until_s": 0.6, "replica": 1}
    told = sim.simulate(
        described(engine=tiers, replicas=2, faults=[fault], workload=poisson(40, 40, 100, 60))
    ).explain()
    assert told.about("changes") == ("fault, resubmissions",)
    assert "replica 1 was down from 0.3 s until 0.6 s" in str(told[-2])
