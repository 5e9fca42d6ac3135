"""What vLLM's scheduler never does, held at every choice of a step in random runs: spend more than its
budget, run more than it has seats, lose blocks, let anybody overtake, resume a preempted sequence anywhere
but at the start or behind what is cached. Also with priorities, drafts, data-parallel ranks, pipelines and
lower tiers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.policy.scheduling import ContinuousBatching, Grants
from sim.runtime import build
from sim.runtime.engine.queue import RequestQueue
from sim.runtime.engine.sequence import Sequence
from sim.runtime.kv.offloading_queue import TieredQueue
from sim.scenario.scenario import Scenario
from sim.simulate import Result, simulate
from tests.laws.folded_and_played import differences
from tests.laws.folding_scenarios import small

CLASSES = {"urgent": {"priority": 0}, "plain": {"priority": 3}, "patient": {"priority": 7}}
TIERS = {"host": {"capacity_bytes": "2 GB"}}


@st.composite
def services(draw: st.DrawFn) -> dict[str, Any]:
    """Engines short of budget, seats and blocks, on two or four GPUs."""
    kind = draw(st.sampled_from(["one", "ranks", "stages", "drafts", "tiers"]))
    budget = draw(st.sampled_from([64, 200, 2048]))
    engine: dict[str, Any] = {
        "tensor_parallel_size": 2,
        "max_num_seqs": draw(st.sampled_from([2, 5, 16])),
        "max_num_batched_tokens": budget,
        "num_gpu_blocks_override": draw(st.sampled_from([50, 70, 130])),
        "scheduling_policy": draw(st.sampled_from(["fcfs", "priority"])),
        "enable_prefix_caching": kind == "tiers" or draw(st.booleans()),
        "long_prefill_token_threshold": draw(st.sampled_from([0, 0, 40])),
        "scheduler_reserve_full_isl": draw(st.booleans()),
        "watermark": draw(st.sampled_from([0.0, 0.0, 0.1])),
    }
    model = small("llama-3-8b")
    if kind == "stages":
        engine |= {"pipeline_parallel_size": 2, "pipeline_split": draw(st.sampled_from(["vllm", "even"]))}
    else:
        engine["async_scheduling"] = draw(st.booleans())
    if kind == "ranks":
        engine |= {"tensor_parallel_size": 1, "data_parallel_size": 2, "enable_expert_parallel": True}
        model = small("qwen3-30b-a3b")
    if kind == "drafts":
        engine["speculation"] = {
            "num_speculative_tokens": draw(st.integers(1, 3)),
            "acceptance_rate": draw(st.sampled_from([0.3, 0.8])),
        }
    if kind == "tiers":
        engine["kv_tiers"] = TIERS
    workload: dict[str, Any] = {
        "arrivals": {"kind": "poisson", "rate_per_s": draw(st.sampled_from([30.0, 200.0]))},
        "prompt_tokens": {"kind": "uniform", "low": 1, "high": 300},
        "output_tokens": {"kind": "uniform", "low": 1, "high": 150},
        "requests": draw(st.integers(5, 30)),
        "classes": CLASSES,
    }
    if draw(st.booleans()):
        workload["prefix"] = {"groups": 3, "tokens": 64}
    return {"topology": "a100-x4", "model": model, "engine": engine, "workload": workload}


class Watched:
    """A scheduling rule that is looked at before and after every choice."""

    def __init__(self, rule: Callable[[Any], Grants[Sequence]], engine: dict[str, Any]) -> None:
        self.rule = rule
        self.engine = engine
        self.choices = 0
        self.arrived: dict[RequestQueue, list[Sequence]] = {}

    def __call__(self, queue: RequestQueue) -> Grants[Sequence]:
        waiting, running = list(queue.waiting), list(queue.running)
        preemptions = queue.preemptions
        computed = {one: one.computed for one in running}
        times = {one: one.preemptions for one in running}
        pending = {one: one.pending_tokens for one in (*waiting, *running)}
        for one in waiting:
            assert one.computed == 0 or one.received, "who waits has computed something"
            assert one.unhashed_blocks + one.held == 0 or one.received, "who waits holds blocks"
        grants = self.rule(queue)
        self.choices += 1
        admitted = [one for one in queue.running if one in waiting]
        self._budget_and_seats(queue, grants, pending)
        self._blocks(queue, grants)
        if queue.preemptions > preemptions:
            gone = [one for one in running if one.preemptions > times[one]]
            assert not admitted, "somebody was admitted in a step that preempts"
            assert not any(one in queue.running for one in gone), "preempted and admitted in one step"
        for one in admitted:
            cached = one.computed
            if not one.received:
                assert cached % queue.block_pool.block_size == 0, "a prefix that ends within a block"
                assert 0 <= cached < one.known_tokens, "nothing is left to compute"
                assert self.engine["enable_prefix_caching"] or cached == 0, "resumed in the middle"
        for one in running:
            if one in queue.running:
                assert one.computed == computed[one], "computed before the step"
        self._order(queue, waiting, admitted)
        return grants

    def _budget_and_seats(
        self, queue: RequestQueue, grants: Grants[Sequence], pending: dict[Sequence, int]
    ) -> None:
        drafts = self.engine.get("speculation", {}).get("num_speculative_tokens", 0)
        spent = sum(tokens for _, tokens in grants)
        with_drafts = spent + sum(drafts for one, tokens in grants if tokens == one.pending_tokens == 1)
        budget = self.engine["max_num_batched_tokens"]
        assert spent <= budget, "over the budget"
        assert with_drafts <= budget + drafts, "over the budget, with drafts"
        assert len({one for one, _ in grants}) == len(grants), "somebody was granted twice"
        threshold = self.engine["long_prefill_token_threshold"] or budget
        for one, tokens in grants:
            assert 0 < tokens <= min(one.pending_tokens, threshold), "more than it needs, or may have"
        assert len(queue.running) <= self.engine["max_num_seqs"], "more run than there are seats"

    def _blocks(self, queue: RequestQueue, grants: Grants[Sequence]) -> None:
        cache, size = queue.block_pool, queue.block_pool.block_size
        cache.check()
        granted = dict(grants)
        hashed: dict[int, int] = {}
        unhashed = 0
        for one in queue.running:
            ends = (0, *one.hash_ends)
            spans = [(ends[i + 1] - ends[i]) // size for i in range(one.held)]
            hashed.update(zip(one.block_hashes, spans, strict=False))
            unhashed += one.unhashed_blocks
            has = one.unhashed_blocks + sum(spans)
            assert has * size >= one.computed + granted.get(one, 0), "computed without a block for it"
        if not isinstance(queue, TieredQueue):  # whose copies under way hold blocks too
            leaving = cache.used - unhashed - sum(hashed.values())
            assert leaving >= 0, "one block is held twice"
            assert leaving == 0 or queue.limits.async_scheduling, "blocks were lost"

    def _order(self, queue: RequestQueue, waiting: list[Sequence], admitted: list[Sequence]) -> None:
        if isinstance(queue, TieredQueue):  # whoever's KV has come goes first
            return
        if queue.by_priority:
            keys = [(one.priority, one.arrival_s) for one in waiting]
            assert keys == sorted(keys), "not in order of priority, then arrival"
            left = [one for one in queue.waiting if one.eligible_step <= queue.step and one in waiting]
            if admitted and left and queue.preemptions == 0:
                last = max((one.priority, one.arrival_s) for one in admitted)
                assert last < min((one.priority, one.arrival_s) for one in left), "somebody overtook"
            return
        assert admitted == waiting[: len(admitted)], "somebody overtook"
        new = [one.arrival_s for one in waiting if not one.preemptions]
        assert new == sorted(new), "not in order of arrival"
        first_new = next((i for i, one in enumerate(waiting) if not one.preemptions), len(waiting))
        assert all(not one.preemptions for one in waiting[first_new:]), "a preempted one is not in front"


def watched_run(data: dict[str, Any], *, seed: int = 0, fold: bool = True) -> tuple[Result, int]:
    """A run whose every choice is looked at, and how many there were."""
    rules: list[Watched] = []
    queues: list[RequestQueue] = []
    named, made = build.scheduling_rule, RequestQueue.__init__

    def rule_of(engine: Any) -> Watched:
        rules.append(Watched(named(engine), data["engine"]))
        return rules[-1]

    def noted(queue: RequestQueue, *args: Any, **how: Any) -> None:
        made(queue, *args, **how)
        queues.append(queue)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(build, "scheduling_rule", rule_of)
        patched.setattr(RequestQueue, "__init__", noted)
        result = simulate(Scenario.model_validate(data), seed=seed, fold=fold)
    for queue in queues:
        assert not queue.running
        assert not queue.waiting
        assert queue.block_pool.free_blocks == queue.block_pool.blocks, "blocks were lost"
    assert set(result.requests["status"]) <= {"finished", "rejected"}
    return result, sum(rule.choices for rule in rules)


@pytest.mark.slow
@settings(max_examples=60)
@given(services(), st.integers(0, 1000), st.booleans())
def test_budget_seats_blocks_and_order_hold_at_every_choice(
    data: dict[str, Any], seed: int, fold: bool
) -> None:
    _, choices = watched_run(data, seed=seed, fold=fold)
    assert choices > 0


@pytest.mark.slow
@settings(max_examples=40)
@given(services(), st.integers(0, 1000))
def test_engines_that_are_short_of_everything_fold_as_they_play(data: dict[str, Any], seed: int) -> None:
    found, _ = differences(data, seed=seed)
    assert not found, found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ahead", [False, True])
def test_drafts_take_their_blocks_folded_as_played(ahead: bool, seed: int) -> None:
    speculation = {"num_speculative_tokens": 2, "acceptance_rate": 0.3}
    engine = {"num_gpu_blocks_override": 70, "async_scheduling": ahead, "speculation": speculation}
    limits = {"max_num_seqs": 16, "max_num_batched_tokens": 200}
    found, result = differences({**TIGHT, "engine": {**TIGHT["engine"], **engine, **limits}}, seed=seed)
    assert not found, found
    assert result.summary()["preemptions"] > 0


TIGHT: dict[str, Any] = {
    "topology": "a100-x4",
    "model": small("llama-3-8b"),
    "engine": {
        "max_num_seqs": 4, "max_num_batched_tokens": 100, "num_gpu_blocks_override": 60,
        "scheduling_policy": "fcfs", "enable_prefix_caching": True, "long_prefill_token_threshold": 0,
        "scheduler_reserve_full_isl": False,
    },
    "workload": {
        "arrivals": {"kind": "poisson", "rate_per_s": 200.0},
        "prompt_tokens": {"kind": "uniform", "low": 10, "high": 300},
        "output_tokens": {"kind": "uniform", "low": 1, "high": 150},
        "requests": 30,
        "classes": CLASSES,
        "prefix": {"groups": 3, "tokens": 64},
    },
}  # fmt: skip


def tight_runs() -> list[dict[str, Any]]:
    """Summaries with and without prefix caching."""
    engine = TIGHT["engine"]
    return [
        watched_run({**TIGHT, "engine": {**engine, "enable_prefix_caching": caching}})[0].summary()
        for caching in (True, False)
    ]


def test_the_tight_service_preempts_and_shares_prefixes() -> None:
    numbers, plain = tight_runs()
    assert numbers["preemptions"] > 0
    assert plain["preemptions"] > 0
    assert numbers["prefix_hit_rate"] > 0


def _spends_too_much(patch: pytest.MonkeyPatch) -> None:
    build_queue = RequestQueue.__init__

    def richer(queue: RequestQueue, *args: Any, **how: Any) -> None:
        build_queue(queue, *args, **how)
        queue.token_budget *= 2

    patch.setattr(RequestQueue, "__init__", richer)


def _has_a_seat_too_many(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RequestQueue, "max_running", property(lambda queue: queue.limits.max_num_seqs + 1))


def _loses_blocks(patch: pytest.MonkeyPatch) -> None:
    release = RequestQueue.release

    def forgetful(queue: RequestQueue, sequence: Sequence) -> None:
        sequence.unhashed_blocks = max(0, sequence.unhashed_blocks - 1)
        release(queue, sequence)

    patch.setattr(RequestQueue, "release", forgetful)


def _takes_no_blocks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RequestQueue, "allocate", lambda queue, sequence, tokens: True)


def _lets_the_last_go_first(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RequestQueue, "next_waiting", lambda queue: queue.waiting[-1] if queue.waiting else None)


def _resumes_where_it_was(patch: pytest.MonkeyPatch) -> None:
    preempt = RequestQueue.preempt

    def keeps(queue: RequestQueue, sequence: Sequence) -> None:
        computed = sequence.computed
        preempt(queue, sequence)
        sequence.computed = computed

    patch.setattr(RequestQueue, "preempt", keeps)


def _sends_the_preempted_to_the_back(patch: pytest.MonkeyPatch) -> None:
    preempt = RequestQueue.preempt

    def to_the_back(queue: RequestQueue, sequence: Sequence) -> None:
        preempt(queue, sequence)
        queue.waiting.rotate(-1)

    patch.setattr(RequestQueue, "preempt", to_the_back)


def _admits_whatever_was_preempted(patch: pytest.MonkeyPatch) -> None:
    choose = ContinuousBatching.__call__

    def and_admits(rule: ContinuousBatching, engine: Any) -> Any:
        grants = choose(rule, engine)
        left = engine.token_budget - sum(tokens for _, tokens in grants)
        rule._admit(engine, grants, left, len(grants) + 1)
        return grants

    patch.setattr(ContinuousBatching, "__call__", and_admits)


def _finds_prefixes_that_are_not_there(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RequestQueue, "cached_tokens", lambda queue, sequence: sequence.known_tokens - 1)


@pytest.mark.parametrize(
    "broken",
    [
        _spends_too_much,
        _has_a_seat_too_many,
        _loses_blocks,
        _takes_no_blocks,
        _lets_the_last_go_first,
        _resumes_where_it_was,
        _sends_the_preempted_to_the_back,
        _admits_whatever_was_preempted,
        _finds_prefixes_that_are_not_there,
    ],
)
def test_a_scheduler_that_breaks_a_rule_is_seen(
    broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    with pytest.raises(AssertionError):
        tight_runs()
