import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.policy.scheduling import ContinuousBatching, PrefillFirst, StaticBatching
from tests.policy.one_engine import OneEngine
from tests.policy.rule_alone import Desk, Task, named

VLLM = ContinuousBatching()


def test_one_budget_is_shared_by_decodes_and_prefill_chunks():
    engine = OneEngine(budget=100)
    engine.add(0, 30)
    engine.add(1, 90)
    assert engine.take(VLLM) == [(0, 30), (1, 70)]  # the second prompt is cut where the budget ends
    assert engine.take(VLLM) == [(0, 1), (1, 20)]  # running sequences first, in the order of their admission
    assert engine.take(VLLM) == [(0, 1), (1, 1)]


def test_a_prompt_that_is_not_chunked_waits_for_a_step_with_room_for_all_of_it():
    engine = OneEngine(budget=100)
    engine.add(0, 30)
    engine.add(1, 90)
    whole = ContinuousBatching(chunked_prefill=False)
    assert engine.take(whole) == [(0, 30)]
    assert engine.take(whole) == [(0, 1), (1, 90)]


def test_a_long_prompt_gets_no_more_than_the_threshold_in_a_step():
    engine = OneEngine(budget=100)
    engine.add(0, 90)
    engine.add(1, 30)
    capped = ContinuousBatching(long_prefill_token_threshold=40)
    assert engine.take(capped) == [(0, 40), (1, 30)]
    assert engine.take(capped) == [(0, 40), (1, 1)]
    assert engine.take(capped) == [(0, 10), (1, 1)]


def test_no_more_sequences_run_than_max_num_seqs():
    engine = OneEngine(seqs=2)
    for i in range(3):
        engine.add(i, 10, output=2)
    assert engine.take(VLLM) == [(0, 10), (1, 10)]
    assert engine.take(VLLM) == [(0, 1), (1, 1)]
    assert engine.take(VLLM) == [(2, 10)]


def test_requests_are_admitted_in_order_of_arrival_and_the_first_that_does_not_fit_holds_up_the_rest():
    engine = OneEngine(blocks=4)
    engine.add(0, 30)
    engine.add(1, 48)
    engine.add(2, 10)
    assert engine.take(VLLM) == [(0, 30)]  # request 2 would fit, and waits behind request 1


def test_admission_by_priority_then_arrival():
    engine = OneEngine(seqs=1, by_priority=True)
    engine.add(0, 10, arrival_s=0.0, priority=1)
    engine.add(1, 10, arrival_s=1.0, priority=0)
    engine.add(2, 10, arrival_s=0.5, priority=0)
    assert [sequence.request.request_id for sequence in engine.waiting] == [2, 1, 0]


def test_the_whole_text_must_fit_before_admission_and_not_only_its_first_chunk():
    for reserve_full_prompt, granted in ((True, []), (False, [(1, 16)])):
        engine = OneEngine(blocks=4, budget=32, reserve_full_prompt=reserve_full_prompt)
        engine.add(0, 16, output=100)
        engine.take(VLLM)
        engine.add(1, 60)
        engine.token_budget = 17
        assert engine.take(VLLM)[1:] == granted


def test_no_request_is_admitted_that_might_not_fit_to_the_end_of_its_answer():
    for guaranteed_no_evict, running in ((False, 2), (True, 1)):
        engine = OneEngine(blocks=10, guaranteed_no_evict=guaranteed_no_evict)
        engine.add(0, 16, output=16 * 5)  # six blocks at most, one now
        engine.add(1, 16, output=16 * 4)
        engine.take(VLLM)
        assert len(engine.running) == running


def test_the_watermark_keeps_blocks_back_from_admission_but_not_from_running_sequences():
    engine = OneEngine(blocks=10, watermark=0.5)
    engine.add(0, 16 * 8, output=20)
    engine.add(1, 16)
    assert engine.take(VLLM) == [(0, 128)]  # none runs yet: it may have all; then 2 blocks are left of 5
    assert engine.take(VLLM) == [(0, 1)]


def test_when_blocks_run_out_the_last_to_run_goes_back_to_the_front_and_starts_again():
    engine = OneEngine(blocks=4)
    engine.add(0, 31, output=40)
    last = engine.add(1, 31, output=40)
    engine.add(2, 5)
    assert engine.take(VLLM) == [(0, 31), (1, 31)]
    assert engine.take(VLLM) == [(0, 1), (1, 1)]
    assert engine.take(VLLM) == [(0, 1)]  # the 33rd token needs a block; after a preemption none is admitted
    assert last.preemptions == 1
    assert last.computed == 0
    assert [sequence.request.request_id for sequence in engine.waiting] == [1, 2]


def test_preemption_by_priority_takes_the_least_important_and_ends_the_turn_if_it_is_the_one_in_turn():
    engine = OneEngine(blocks=6, by_priority=True)
    by_priority = ContinuousBatching(by_priority=True)
    engine.add(0, 32, output=40, priority=0)
    engine.add(1, 32, output=40, arrival_s=1.0, priority=0)
    engine.add(2, 31, output=40, priority=5)
    assert engine.take(by_priority) == [(0, 32), (1, 32), (2, 31)]
    assert engine.take(by_priority) == [(0, 1), (1, 1)]  # two new blocks come from request 2
    assert [sequence.request.request_id for sequence in engine.waiting] == [2]


def test_a_preempted_sequence_that_was_granted_tokens_in_this_step_gives_them_back():
    engine = OneEngine(blocks=5, by_priority=True)
    rule = ContinuousBatching(by_priority=True)
    engine.add(0, 16, output=40, priority=9)
    engine.take(rule)
    engine.add(1, 47, output=40, priority=0)
    assert engine.take(rule) == [(0, 1), (1, 47)]
    for _ in range(20):
        granted = engine.take(rule)
        assert len({request for request, _ in granted}) == len(granted)
    assert engine.finished == []
    assert engine.preemptions > 0


def test_what_a_victim_was_granted_goes_to_those_behind_and_none_of_them_is_passed_over() -> None:
    low = Task("low", known_tokens=50, priority=9, held=10)
    tasks = [low, Task("mid", priority=1), Task("hungry", pending_tokens=8), Task("tail")]
    desk = Desk(tasks, free=2, token_budget=9)
    # 9 tokens: one for low, one for mid, seven are left for hungry, for whose blocks low has to go.
    grants = ContinuousBatching(by_priority=True)(desk)
    assert named(grants) == [("mid", 1), ("hungry", 7), ("tail", 1)]
    assert desk.waiting == [low]


def test_a_sequence_that_preempts_all_others_in_vain_goes_itself_and_ends_the_turn() -> None:
    desk = Desk([Task("a"), Task("b", pending_tokens=9, known_tokens=9), Task("c", held=3)], free=1)
    assert named(ContinuousBatching()(desk)) == [("a", 1)]
    assert [task.name for task in desk.waiting] == ["b", "c"]


def test_none_is_admitted_in_a_step_that_had_to_preempt() -> None:
    desk = Desk([Task("a"), Task("b", known_tokens=5, held=10)])
    assert named(ContinuousBatching()(desk)) == [("a", 1)]
    assert desk.free == 9
    assert named(ContinuousBatching()(desk)) == [("a", 1), ("b", 5)]


def test_drafts_take_their_part_of_the_budget() -> None:
    desk = Desk([Task("a"), Task("b"), Task("c")], free=100, token_budget=5, draft_tokens=2)
    assert named(ContinuousBatching()(desk)) == [("a", 1), ("b", 1)]


def test_a_preempted_sequence_returns_to_its_place_by_priority() -> None:
    engine = OneEngine(blocks=4, by_priority=True)
    rule = ContinuousBatching(by_priority=True)
    engine.add(0, 31, output=40, priority=0)
    engine.add(1, 31, output=40, priority=5)
    engine.take(rule)
    engine.take(rule)
    engine.add(2, 60, arrival_s=9.0, priority=3)
    assert engine.take(rule) == [(0, 1)]
    assert [sequence.request.request_id for sequence in engine.waiting] == [2, 1]


def test_a_request_that_may_not_be_seen_yet_holds_up_none_of_lower_priority() -> None:
    engine = OneEngine(by_priority=True)
    engine.add(0, 10, priority=0).eligible_step = 1
    engine.add(1, 10, priority=5)
    assert engine.take(ContinuousBatching(by_priority=True)) == [(1, 10)]


def test_a_preempted_sequence_finds_what_is_left_of_its_blocks():
    engine = OneEngine(blocks=7, caching=True)
    engine.add(0, 31, output=4)
    victim = engine.add(1, 70, output=50)
    for _ in range(2):
        assert len(engine.take(VLLM)) == 2
    assert [engine.take(VLLM) for _ in range(2)] == [[(0, 1)], [(0, 1)]]  # it waits until request 0 is done
    assert engine.take(VLLM) == [(1, 72 - 64)]  # 4 of its 5 blocks were not taken meanwhile
    assert victim.preemptions == 1


def test_a_shared_prefix_is_computed_once_but_for_the_last_token():
    engine = OneEngine(caching=True)
    engine.add(0, 40, hashes=(7, 8))
    assert engine.take(VLLM) == [(0, 40)]
    engine.add(1, 50, hashes=(7, 8))
    engine.add(2, 32, hashes=(7, 8))
    assert engine.take(VLLM) == [(0, 1), (1, 50 - 32), (2, 32 - 16)]  # the last token of a prompt is computed


def test_even_shares_leave_work_for_the_other_batches_in_flight():
    engine = OneEngine()
    for i in range(4):
        engine.add(i, 10)
    assert engine.take(ContinuousBatching(even_shares=2)) == [(0, 10), (1, 10)]


def test_without_chunks_a_step_is_prompts_or_decodes():
    engine = OneEngine(budget=100)
    engine.add(0, 60)
    assert engine.take(PrefillFirst()) == [(0, 60)]
    engine.add(1, 60)
    engine.add(2, 60)
    assert engine.take(PrefillFirst()) == [(1, 60)]
    assert engine.take(PrefillFirst()) == [(2, 60)]
    assert engine.take(PrefillFirst()) == [(0, 1), (1, 1), (2, 1)]


def test_a_static_batch_admits_none_until_its_last_sequence_is_done():
    engine = OneEngine(seqs=2)
    engine.add(0, 10, output=2)
    engine.add(1, 10, output=4)
    engine.add(2, 10, output=2)
    steps = [engine.take(StaticBatching()) for _ in range(5)]
    assert steps == [[(0, 10), (1, 10)], [(0, 1), (1, 1)], [(1, 1)], [(1, 1)], [(2, 10)]]


requests = st.lists(
    st.tuples(st.integers(1, 120), st.integers(1, 60), st.integers(0, 2), st.integers(0, 3)),
    min_size=1,
    max_size=25,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    asked=requests,
    budget=st.integers(8, 200),
    seqs=st.integers(1, 8),
    blocks=st.integers(12, 40),
    threshold=st.sampled_from([0, 16]),
    by_priority=st.booleans(),
    caching=st.booleans(),
    chunked=st.booleans(),
    reserve_full_prompt=st.booleans(),
    guaranteed_no_evict=st.booleans(),
)
def test_limits_hold_blocks_are_conserved_and_everything_ends(
    asked,
    budget,
    seqs,
    blocks,
    threshold,
    by_priority,
    caching,
    chunked,
    reserve_full_prompt,
    guaranteed_no_evict,
):
    engine = OneEngine(
        budget=max(budget, seqs, 0 if chunked else 200),
        seqs=seqs,
        blocks=blocks,
        caching=caching,
        by_priority=by_priority,
        reserve_full_prompt=reserve_full_prompt,
        guaranteed_no_evict=guaranteed_no_evict,
    )
    rule = ContinuousBatching(chunked, threshold if chunked else 0, by_priority)
    sequences, waiting = [], list(enumerate(asked))
    for _ in range(20_000):
        if waiting:
            i, (prompt, output, priority, prefix) = waiting.pop(0)
            hashes = tuple(range(prefix * 100, prefix * 100 + prompt // 16)) if prefix else ()
            sequences.append(
                engine.add(i, prompt, output, arrival_s=engine.env.now, priority=priority, hashes=hashes)
            )
        before = {one.request.request_id: one.computed for one in sequences}
        preemptions = engine.preemptions
        granted = engine.take(rule)
        assert sum(tokens for _, tokens in granted) <= engine.token_budget
        assert len(granted) <= len(engine.running) + len(engine.finished) <= seqs + len(engine.finished)
        assert not threshold or not chunked or all(tokens <= threshold for _, tokens in granted)
        if engine.preemptions > preemptions:
            assert not any(before[i] == 0 and sequences[i].admitted_s is None for i, _ in granted)
        if not waiting and len(engine.finished) == len(asked):
            break
    assert sorted(engine.finished) == list(range(len(asked)))
    assert all(one.generated == one.output_tokens for one in sequences)
    assert engine.block_pool.free_blocks == blocks
    if guaranteed_no_evict:
        assert engine.preemptions == 0
    if not by_priority:
        first = [one.admitted_s for one in sequences]
        assert first == sorted(first)


def test_a_rule_that_overdraws_its_budget_would_be_seen():
    engine = OneEngine(budget=20)
    engine.add(0, 50)
    engine.take(VLLM)
    granted = engine.take(lambda engine: [(one, one.pending_tokens) for one in engine.running])
    assert sum(tokens for _, tokens in granted) > engine.token_budget
