"""What an engine does with whole requests: limits of length, graphs, drafts, pipelines, prefixes, memory."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import sim
from sim.inputs.errors import InfeasibleError
from sim.results.laws import violations
from sim.runtime.clock import ARRIVAL, FAILURE
from sim.runtime.engine import replica as replica_module
from sim.runtime.engine.replica import Replica
from sim.runtime.engine.sequence import Sequence
from sim.scenario import Scenario, with_changes
from sim.simulate import Result, simulate
from sim.workload.request import Request
from tests.laws.folding_scenarios import small
from tests.runtime.engine.one_replica import OneReplica

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


def test_a_request_that_comes_during_a_step_is_seen_when_it_ends() -> None:
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
    ("drafts", "acceptance", "tokens"),
    [(1, 0.7, 1.7), (3, 0.7, 2.533), (3, 0.9, 3.439), (2, 0.0, 1.0), (2, 1.0, 3.0)],
)
def test_accepted_drafts_are_drawn_and_their_mean_is_as_expected(
    drafts: int, acceptance: float, tokens: float
) -> None:
    """(1 - a^(g+1)) / (1 - a) tokens a step; 20,000 steps or more, so that 2 % are 4 standard deviations."""
    speculation = {"num_speculative_tokens": drafts, "acceptance_rate": acceptance}
    rows = run({**GIVEN, "speculation": speculation}, output=1001, requests=48).requests
    steps = (rows["finished_s"] - rows["first_token_s"]).to_numpy()
    assert 48 * 1000 / steps.sum() == pytest.approx(tokens, rel=0.02)
    assert (rows["generated_tokens"] == 1001).all()
    assert (len(set(steps.tolist())) > 1) is (0 < acceptance < 1)


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
    assert len(many.steps) + len(many.gaps) < 6 * (len(few.steps) + len(few.gaps))


def test_priorities_are_served_first() -> None:
    classes = {"urgent": {"priority": 0, "share": 0.2}, "patient": {"priority": 5, "share": 0.8}}
    engine = {"max_num_seqs": 2, "scheduling_policy": "priority"}
    rows = run(engine, output=50, requests=60, classes=classes).requests
    waits = {
        name: (part["admitted_s"] - part["arrival_s"]).max()
        for (name,), part in rows.group_by("request_class")
    }
    assert waits["urgent"] < waits["patient"] / 2


def test_without_chunks_the_longest_text_is_what_one_step_takes() -> None:
    whole: dict[str, Any] = {"enable_chunked_prefill": False, "max_num_batched_tokens": 2048}
    assert run(whole, prompt=2048).requests["status"].to_list() == ["rejected"]
    assert run(whole, prompt=2000).requests["status"].to_list() == ["finished"]
    assert run({"enable_chunked_prefill": False}, prompt=8000).requests["status"].to_list() == ["finished"]
    with pytest.raises(InfeasibleError, match=r"max_model_len = 4000: must be at most .*2048"):
        run({**whole, "max_model_len": 4000})


def test_one_block_of_all_is_vllms_own() -> None:
    """With 5 blocks of 16 tokens a text of 64 tokens is the longest."""
    for prompt, status in ((63, "finished"), (64, "rejected")):
        rows = run({"num_gpu_blocks_override": 5}, prompt=prompt, output=1).requests
        assert rows["status"].to_list() == [status]
    with pytest.raises(InfeasibleError, match="KV blocks = 1: must be at least 2"):
        run({"num_gpu_blocks_override": 1})


@pytest.mark.parametrize(("ahead", "admitted_s"), [(False, 3.0), (True, 4.0)])
def test_a_seat_is_free_one_step_later_where_steps_are_chosen_ahead(ahead: bool, admitted_s: float) -> None:
    """Two places: a sequence that ends with the third step leaves its place to the fourth, or, chosen before
    that was known, to the fifth.
    """
    engine = {**GIVEN, "max_num_seqs": 2, "async_scheduling": ahead}
    lengths = {"kind": "empirical", "values": [3]}
    classes = {"short": {"output_tokens": lengths}, "long": {"output_tokens": 20}}
    rows = run(engine, requests=12, classes=classes).requests
    first, second = rows.row(0, named=True), rows.row(1, named=True)
    assert {first["output_tokens"], second["output_tokens"]} == {3, 20}
    assert rows.row(2, named=True)["admitted_s"] == admitted_s


def test_the_only_running_sequence_leaves_its_place_at_once_for_no_step_runs_meanwhile() -> None:
    engine = {**GIVEN, "max_num_seqs": 1, "async_scheduling": True}
    assert run(engine, output=3, requests=2).requests["admitted_s"].to_list() == [0.0, 3.0]


@pytest.mark.parametrize("ahead", [False, True])
def test_an_engine_whose_only_choice_was_to_preempt_chooses_again(ahead: bool, tmp_path: Path) -> None:
    """Eight blocks for two prompts of four: when the first in order, and the least important, needs a fifth,
    it gives up its own, and no sequence behind it computes in that step.
    """
    trace = tmp_path / "two.csv"
    trace.write_text(
        "arrival_s,prompt_tokens,output_tokens,request_class\n0,60,40,patient\n0.001,50,40,urgent\n"
    )
    scenario = Scenario.model_validate(
        {
            "topology": "a100-x4",
            "model": small("llama-3-8b"),
            "engine": {
                "num_gpu_blocks_override": 9,
                "scheduling_policy": "priority",
                "async_scheduling": ahead,
                "enable_prefix_caching": False,
            },
            "workload": {
                "arrivals": {"kind": "trace", "path": str(trace)},
                "classes": {"patient": {"priority": 7}, "urgent": {"priority": 0}},
            },
        }
    )
    rows = simulate(scenario).requests
    assert rows["status"].to_list() == ["finished", "finished"]
    assert rows["preemptions"].to_list() == [1, 0]
    assert rows["finished_s"][1] < rows["finished_s"][0]


def test_a_sequence_that_recomputes_gets_one_token_from_it_and_drafts_only_afterwards() -> None:
    """With all drafts accepted 80 tokens after the first take 20 decode steps. A chunk that computes again
    gives one token, and the three that are lacking then take as many steps as four.
    """
    sure = {"num_speculative_tokens": 3, "acceptance_rate": 1.0}
    limits = {"num_gpu_blocks_override": 14, "max_num_seqs": 2, "enable_prefix_caching": False}
    result = run({**limits, "speculation": sure, "async_scheduling": False}, prompt=64, output=81, requests=2)
    assert result.summary()["preemptions"] == 1
    assert (result.requests["generated_tokens"] == 81).all()
    steps = result.steps
    assert (steps["steps"] * steps["decode_tokens"]).sum() == 2 * 20


# ---- the one door


@pytest.mark.slow
def test_nothing_but_a_replica_reaches_its_engine() -> None:
    """`core` is private to Replica and the replica that records: no other module reads it."""
    root = Path(sim.__file__).parent
    readers = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "_core"
    }
    assert readers == {"runtime/engine/replica.py", "runtime/recording.py"}


def test_a_replica_goes_through_the_settled_door_but_for_what_needs_no_settling() -> None:
    tree = ast.parse(Path(replica_module.__file__).read_text())
    (replica,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    past_the_door = {
        method.name
        for method in replica.body
        if isinstance(method, ast.FunctionDef)
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute) and node.attr == "_core"
    }
    assert past_the_door == {"__init__", "_settled", "listen", "is_up", "is_idle", "tokens"}


VERBS: dict[str, Callable[[Replica, Sequence], Any]] = {
    "submit": lambda replica, sequence: replica.submit(Request(9, replica.env.now, 4, 3)),
    "abort": lambda replica, sequence: replica.abort(sequence),
    "tokens_by_now": lambda replica, sequence: replica.tokens_by_now(sequence),
    "tokens": lambda replica, sequence: replica.tokens,
    "reserve": lambda replica, sequence: replica.reserve(9) and None,
    "look_again": lambda replica, sequence: replica.look_again(),
    "schedule_soon": lambda replica, sequence: replica.schedule_soon(),
    "cached_prompt_tokens": lambda replica, sequence: replica.cached_prompt_tokens(
        Request(9, 0.0, 60, 3, tuple(range(15)), 4)
    ),
    "fail": lambda replica, sequence: len(replica.fail()),
    "stop": lambda replica, sequence: replica.stop(),
}


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("instant", [9.9, 11.0, 12.3])
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_finds_and_leaves_a_folded_engine_as_a_played_one(
    verb: str, instant: float, stages: int
) -> None:
    seen = []
    for fold in (True, False):
        one = OneReplica(stages=stages, fold=fold)
        hashes = {"block_hashes": tuple(range(8)), "hash_block_tokens": 4}
        sequences = [one.submit(number, 4, 30, **hashes) for number in (0, 1)]
        lost = verb in ("fail", "stop")
        act = partial(VERBS[verb], one.replica, sequences[0])
        answer = one.at(instant, act, FAILURE if lost else ARRIVAL)
        if not lost:
            one.env.run()
        pool = one.replica.queues[0].block_pool
        pool.check()
        found = {
            "answer": None if verb == "submit" else answer,
            "tokens": [sequence.generated for sequence in sequences],
            "blame": [sequence.blame for sequence in sequences],
            "reports": one.reports,
            "free blocks": None if verb == "stop" else pool.free_blocks,
        }
        seen.append(found)
    assert seen[0] == seen[1]


def test_a_replica_has_a_seat_until_as_many_requests_have_come_as_may_run() -> None:
    one = OneReplica(max_num_seqs=2)
    assert one.replica.is_idle
    seats = []
    for number in range(3):
        seats.append(one.replica.has_seat)
        one.submit(number)
    assert seats == [True, True, False]
    assert one.at(0.5, lambda: one.replica.is_idle) is False


def test_an_answer_is_cut_when_its_request_is_taken_up() -> None:
    assert OneReplica().submit(prompt=998, output=5).output_tokens == 2


@pytest.mark.parametrize("waiting", [0, 1])
def test_blocks_that_a_copy_frees_are_looked_at_by_what_waits(
    waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, looked = OneReplica(max_num_seqs=1), []
    monkeypatch.setattr(Replica, "look_again", lambda replica: looked.append("queue"))
    one.replica.on_room = lambda: looked.append("elsewhere")
    for number in range(1 + waiting):
        one.submit(number)
    one.at(0.5, one.replica.copies_freed_blocks)
    assert looked == ["queue"] * waiting + ["elsewhere"]
