"""What an engine does with whole requests: limits of length, graphs, drafts, pipelines, prefixes, memory."""

from __future__ import annotations

from typing import Any

import pytest

from sim.results.laws import violations
from sim.scenario import Scenario, with_changes
from sim.simulate import Result, simulate
from tests.laws.folding_scenarios import small

GIVEN = {"service_time": {"step_s": 1.0}, "max_num_seqs": 8, "async_scheduling": False}


def run(
    engine: dict[str, Any], prompt: Any = 10, output: Any = 5, requests: int = 1, **workload: Any
) -> Result:
    arrivals = workload.pop("arrivals", {"kind": "burst"})
    return simulate(
        Scenario.model_validate(
            {
                "topology": "a100-x4",
                "model": small("llama-3-8b"),
                "engine": engine,
                "workload": {
                    "arrivals": arrivals,
                    "prompt_tokens": prompt,
                    "output_tokens": output,
                    "requests": requests,
                    **workload,
                },
            }
        )
    )


def test_a_prompt_that_leaves_no_room_for_a_token_is_rejected_and_an_answer_ends_where_the_text_must() -> (
    None
):
    lengths = {"kind": "empirical", "values": [100]}
    assert run({"max_model_len": 100}, lengths).requests["status"].to_list() == ["rejected"]
    row = run({"max_model_len": 103}, lengths, output=50).requests.row(0, named=True)
    assert (row["status"], row["generated_tokens"]) == ("finished", 3)


def test_a_prefill_gives_the_first_token_and_every_step_after_it_one_more() -> None:
    row = run(GIVEN, output=5).requests.row(0, named=True)
    assert (row["first_token_s"], row["finished_s"]) == (1.0, 5.0)


def test_who_comes_during_a_step_is_seen_when_it_ends() -> None:
    rows = run(GIVEN, requests=2, arrivals={"kind": "constant", "rate_per_s": 1 / 1.5}).requests
    assert rows["admitted_s"].to_list() == [0.0, 2.0]


def test_a_batch_is_computed_in_the_next_captured_size() -> None:
    """Nine sequences cost their products what sixteen do: only attention and the head are theirs alone."""
    seconds = {n: run({"max_num_seqs": 64}, output=100, requests=n).end_s for n in (9, 15, 16, 17)}
    slow_host = {"enforce_eager": True, "host": {"launch_s": 200e-6}}
    eager_s = run({"max_num_seqs": 64, **slow_host}, output=100, requests=16).end_s
    assert seconds[15] / seconds[9] < 1.01
    assert seconds[17] > seconds[16]
    assert eager_s > 1.5 * seconds[16]  # and without graphs the GPU waits for every kernel's launch


@pytest.mark.parametrize(
    ("drafts", "acceptance", "tokens"), [(1, 0.7, 1.7), (3, 0.7, 2.533), (3, 0.9, 3.439)]
)
def test_drafts_give_the_expected_tokens_a_step(drafts: int, acceptance: float, tokens: float) -> None:
    speculation = {"num_speculative_tokens": drafts, "acceptance_rate": acceptance}
    result = run({**GIVEN, "speculation": speculation}, output=1001)
    row = result.requests.row(0, named=True)
    assert 1000 / (row["finished_s"] - row["first_token_s"]) == pytest.approx(tokens, rel=0.005)


def test_drafts_cost_their_time_and_the_verification_of_more_tokens() -> None:
    plain = run({}, output=200).end_s
    free = run({"speculation": {"num_speculative_tokens": 3, "acceptance_rate": 1.0}}, output=200).end_s
    dear = {"num_speculative_tokens": 3, "acceptance_rate": 1.0, "draft_s": 1e-3}
    assert plain / 4 < free < plain / 3
    assert run({"speculation": dear}, output=200).end_s > free + 49 * 3e-3


def test_a_fat_batch_leaves_the_other_stages_of_a_pipeline_idle_and_even_shares_do_not() -> None:
    busy = {}
    for split in ("vllm", "even"):
        engine = {
            "pipeline_parallel_size": 4,
            "pipeline_split": split,
            "max_num_seqs": 64,
            "host": {"step_s": 0, "stage_s": 0},
        }
        result = run(engine, prompt=64, output=100, requests=32)
        used = result.gpus.filter(result.gpus["replica"] >= 0)
        busy[split] = used["busy_s"].sum() / (4 * result.end_s)
        assert violations(result.records) == []
    assert busy["vllm"] < 0.35  # about one stage of four works at a time
    assert busy["even"] > 2 * busy["vllm"]


def test_turns_of_a_conversation_compute_only_what_is_new() -> None:
    talk: dict[str, Any] = {
        "arrivals": {"kind": "sessions", "starts": {"kind": "burst"}, "turns": 3},
        "prompt": 160,
        "output": 32,
        "requests": 3,
    }
    result = run({"async_scheduling": False}, **talk)
    rows = result.requests.sort("turn")
    assert rows["prompt_tokens"].to_list() == [160, 352, 544]
    assert rows["cached_tokens"].to_list() == [0, 176, 368]  # the last token before a turn has no KV yet
    assert run({"enable_prefix_caching": False}, **talk).requests["cached_tokens"].sum() == 0


def test_a_recorded_trace_brings_its_shared_blocks() -> None:
    scenario = Scenario.model_validate(
        {
            "topology": "nd-h100-v5",
            "model": "llama-3.1-8b",
            "engine": {"tensor_parallel_size": 8, "max_model_len": 131072},
            "workload": {"arrivals": {"kind": "trace", "name": "mooncake-conversation", "limit": 100}},
        }
    )
    with_prefixes = simulate(scenario).summary()
    without = simulate(with_changes(scenario, {"engine.enable_prefix_caching": False})).summary()
    assert with_prefixes["prefix_hit_rate"] > 0.02
    assert without["prefix_hit_rate"] == 0
    assert with_prefixes["completed"] == without["completed"] == 100


def test_rows_grow_with_requests_and_not_with_tokens() -> None:
    few, many = (run({"max_num_seqs": 8}, output=n, requests=16, prompt=32) for n in (100, 3000))
    assert many.summary()["total_generated_tokens"] == 30 * few.summary()["total_generated_tokens"]
    # A decode's time bends as its context grows, which takes rows of its own: 8 times as many here.
    assert len(many.steps) + len(many.gaps) < 10 * (len(few.steps) + len(few.gaps))


def test_priorities_are_served_first() -> None:
    classes = {"urgent": {"priority": 0, "share": 0.2}, "patient": {"priority": 5, "share": 0.8}}
    engine = {"max_num_seqs": 2, "scheduling_policy": "priority"}
    rows = run(engine, output=50, requests=60, classes=classes).requests
    waits = {
        name: (part["admitted_s"] - part["arrival_s"]).max()
        for (name,), part in rows.group_by("request_class")
    }
    assert waits["urgent"] < waits["patient"] / 2
