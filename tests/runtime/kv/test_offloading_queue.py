"""The queue over HBM and tiers: what is copied down and when, what a rule is asked, where loaded KV goes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import simpy

from sim.policy.reloading import Prefix
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.kv.offloading_queue import TieredQueue
from sim.runtime.kv.tiers import Level
from sim.scenario.scenario import Scenario
from sim.simulate import Beside, Result, simulate
from tests.laws.folding_scenarios import small

MODEL = small("llama-3-8b")
BLOCK, BLOCKS = 16, 100


def until_all_is_copied(env: simpy.Environment, _: Fabric) -> Generator[simpy.Event, object, object]:
    """The run lasts until this has ended, also when the last request has left."""
    yield env.timeout(60.0)


def run(
    engine: dict[str, Any] | None = None,
    workload: dict[str, Any] | None = None,
    beside: Sequence[Beside] = (),
    **more: Any,
) -> Result:
    """Conversations of two turns of 600 tokens: what comes between them takes their blocks."""
    described = {
        "topology": "nd-h100-v5",
        "model": MODEL,
        "engine": {
            "num_gpu_blocks_override": BLOCKS,
            "kv_tiers": {"host": {"capacity_bytes": "100 GB"}},
            **(engine or {}),
        },
        "kv_reload": "always",
        "workload": {
            "arrivals": {
                "kind": "sessions",
                "starts": {"kind": "constant", "rate_per_s": 1.0},
                "turns": 2,
                "tool_delay_s": 3.0,
            },
            "prompt_tokens": 600,
            "output_tokens": 20,
            "requests": 8,
            **(workload or {}),
        },
    }
    return simulate(Scenario.model_validate({**described, **more}), beside=beside)


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int, bool]]:
    """Every copy down that is asked for: when, which unit, and whether it is copied."""
    found: list[tuple[float, int, bool]] = []
    put = Level.put

    def noted(level: Level, unit: int, n_bytes: float) -> bool:
        copied = put(level, unit, n_bytes)
        found.append((level.fabric.env.now, unit, copied))
        return copied

    monkeypatch.setattr(Level, "put", noted)
    return found


def test_a_prompt_is_copied_when_the_step_that_computed_it_has_ended_and_an_answer_when_it_is_whole(
    puts: list[tuple[float, int, bool]],
) -> None:
    """Two chunks in a pipeline: when the first one ends, the second is under way, its blocks hashed."""
    two_chunks = {"max_num_batched_tokens": 512, "pipeline_parallel_size": 2}
    result = run(two_chunks, {"requests": 1, "output_tokens": 40}, [until_all_is_copied])
    (row,) = result.requests.iter_rows(named=True)
    instants = [now for now, _, copied in puts if copied]
    last_stage = result.steps.filter((result.steps["stage"] == 1) & (result.steps["prefill_tokens"] > 0))
    assert last_stage["prefill_tokens"].to_list() == [512, 88]
    ends = (last_stage["start_s"] + last_stage["first_step_s"]).to_list()
    assert instants[:32] == pytest.approx([ends[0]] * 32)
    assert instants[32:37] == pytest.approx([ends[1]] * 5)
    assert ends[1] < row["finished_s"]
    assert instants[-1] == row["finished_s"]
    per_token = 2 * 4 * 8 * 128 * 2  # K and V, layers, heads, head size, bytes
    whole_blocks = (600 + 40 - 1) // BLOCK * BLOCK
    assert result.kv_tiers["stored_bytes"].sum() == whole_blocks * per_token


def test_hbm_keeps_what_is_being_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of 20 MB/s takes seconds for a prompt; no request has the blocks, and they are not free."""
    used: list[int] = []
    copied = TieredQueue._copied

    def noted(queue: TieredQueue, units: list[int]) -> None:
        used.append(queue.block_pool.used)
        queue.check()
        copied(queue, units)
        used.append(queue.block_pool.used)

    monkeypatch.setattr(TieredQueue, "_copied", noted)
    slow = {"host": {"capacity_bytes": "100 GB", "write_bytes_per_s": "20 MB/s"}}
    run({"kv_tiers": slow}, {"requests": 1}, [until_all_is_copied])
    assert used[-2] > used[-1] == 0


def test_a_copy_under_way_when_the_last_request_leaves_counts_up_to_then() -> None:
    slow = {"host": {"capacity_bytes": "100 GB", "write_bytes_per_s": "20 MB/s"}}
    result = run({"kv_tiers": slow}, {"requests": 1})
    assert 0.0 < result.links["busy_s"].max() <= result.end_s
    assert result.kv_tiers["stored_bytes"].sum() == 0.0


def test_on_eviction_nothing_is_copied_before_hbm_is_full(puts: list[tuple[float, int, bool]]) -> None:
    engine = {"kv_tiers": {"write": "on_eviction", "host": {"capacity_bytes": "100 GB"}}}
    assert run(engine, {"requests": 2}).kv_tiers["stored_bytes"].sum() == 0.0
    assert puts == []
    result = run(engine, {"requests": 8})
    assert result.kv_tiers["stored_bytes"].sum() > 0.0


def test_the_rule_is_asked_with_growing_prefixes_and_its_answer_is_what_is_loaded() -> None:
    asked: list[tuple[Prefix, ...]] = []

    def none(prefixes: Any) -> int:
        asked.append(tuple(prefixes))
        return 0

    result = run(kv_reload=none)
    assert result.kv_tiers["reloaded_bytes"].sum() == 0.0
    longest = [prefixes[-1] for prefixes in asked]
    assert longest
    for prefix in longest:
        assert prefix.tier == "host"
        assert prefix.tokens % BLOCK == 0
        assert prefix.tokens > prefix.held_tokens
        assert 0.0 < prefix.reload_s < prefix.compute_s
    reloaded = run().kv_tiers
    of_host = reloaded.filter(reloaded["tier"] == "host")
    assert of_host["hit_tokens"][0] > 0


def test_the_last_known_token_is_computed_even_where_a_tier_has_all_of_a_text() -> None:
    queue = TieredQueue.__new__(TieredQueue)
    queue.block_pool = SimpleNamespace(block_size=BLOCK)  # type: ignore[assignment]
    limits = [queue._max_cached(SimpleNamespace(known_tokens=tokens)) for tokens in (640, 641, 16)]  # type: ignore[arg-type]
    assert limits == [624, 640, 0]


def test_a_sequence_whose_kv_has_arrived_returns_before_those_that_arrived_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enqueue = TieredQueue.enqueue
    overtaken: list[int] = []

    def noted(queue: TieredQueue, sequence: Any) -> None:
        enqueue(queue, sequence)
        if sequence.received:
            arrivals = [one.arrival_s for one in queue.waiting]
            overtaken.append(len(arrivals) - 1 - arrivals.index(sequence.arrival_s))
            assert arrivals == sorted(arrivals)

    monkeypatch.setattr(TieredQueue, "enqueue", noted)
    slow = {"host": {"capacity_bytes": "100 GB", "read_bytes_per_s": "200 MB/s"}}
    starts = {"kind": "constant", "rate_per_s": 20.0}
    sessions = {"kind": "sessions", "starts": starts, "turns": 2, "tool_delay_s": 0.1}
    run({"kv_tiers": slow, "max_num_seqs": 1}, {"arrivals": sessions, "requests": 60, "output_tokens": 100})
    assert max(overtaken) > 0


def test_a_timeout_while_kv_is_loading_stops_the_transfer_and_frees_the_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queues = set()
    leave = TieredQueue.leave
    left_loading = []

    def noted(queue: TieredQueue, sequence: Any) -> None:
        queues.add(queue)
        if sequence in queue.loading:
            left_loading.append(sequence)
        leave(queue, sequence)

    monkeypatch.setattr(TieredQueue, "leave", noted)
    slow = {"host": {"capacity_bytes": "100 GB", "read_bytes_per_s": "5 MB/s"}}
    result = run({"kv_tiers": slow}, {"timeout_s": 1.0})
    assert left_loading
    (queue,) = queues
    assert queue.block_pool.used == 0
    assert not queue.loading
    _, host = result.kv_tiers.iter_rows(named=True)
    asked_for = host["hit_tokens"] * 2 * 4 * 8 * 128 * 2
    assert 0.0 < host["reloaded_bytes"] < asked_for


def test_what_is_asked_for_are_the_tokens_of_every_prompt() -> None:
    result = run()
    of_hbm = result.kv_tiers.filter(result.kv_tiers["tier"] == "hbm")
    assert of_hbm["asked_tokens"].sum() == result.requests["prompt_tokens"].sum()


def test_what_loads_its_kv_is_a_request_of_the_queue() -> None:
    queue: Any = TieredQueue.__new__(TieredQueue)
    queue.running, queue.waiting, queue.loading = [1], [2, 3], {4: 1, 5: 1}
    assert queue.requests == 5
