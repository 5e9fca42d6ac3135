"""An engine chooses a batch, lets its time pass and delivers the tokens, and reports what leaves it."""

from __future__ import annotations

from typing import Any

import pytest

from sim.results.blame import CAUSES
from sim.runtime.clock import ARRIVAL, FAILURE, at
from sim.runtime.engine.engine_core import EngineListener
from tests.runtime.engine.one_replica import OneReplica


def listened(one: OneReplica) -> list[tuple[Any, ...]]:
    """All reports of an engine, with their instants."""
    seen: list[tuple[Any, ...]] = []

    def noted(what: str) -> Any:
        return lambda about, *more: seen.append(
            (one.env.now, what, about if isinstance(about, int) else about.request.request_id, *more)
        )

    names = ("finished", "aborted", "prefilled", "last_chunk", "steps_passed")
    one.replica.listen(EngineListener(**{name: noted(name) for name in names}))
    return seen


@pytest.mark.parametrize("fold", [True, False])
def test_each_step_gives_a_token_when_its_time_has_passed(fold: bool) -> None:
    one = OneReplica(fold=fold)
    first, second = one.submit(0, output=3), one.submit(1, output=5)
    one.env.run()
    assert (first.first_token_s, second.first_token_s) == (1.0, 1.0)
    assert one.reports == [(3.0, "finished", 0), (5.0, "finished", 1)]
    assert one.steps.columns["steps"].tolist() == [1, 2, 2]
    assert second.blame[CAUSES.index("decode_compute")] == 4.0


@pytest.mark.parametrize(("others", "events"), [(False, 3), (True, 6)])
def test_a_batch_is_chosen_with_the_end_of_the_last_one_where_nothing_else_happens_then(
    others: bool, events: int
) -> None:
    """One event each ends the prompts and the two runs of decodes; the choice after it may need its own."""
    one = OneReplica()
    one.submit(0, output=3), one.submit(1, output=5)
    if others:  # each happens before the choice
        for ends_s in (1.0, 3.0, 5.0):
            at(one.env, ends_s, lambda _: None, ARRIVAL)
    before = next(one.env._eid)
    one.env.run()
    assert one.reports == [(3.0, "finished", 0), (5.0, "finished", 1)]
    assert next(one.env._eid) - before - 1 == events


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize(
    ("ahead", "comes_s", "admitted_s"),
    [(False, 2.5, 3.0), (False, 3.0, 3.0), (True, 2.5, 4.0), (True, 3.0, 3.0)],
)
def test_a_request_is_admitted_with_the_next_choice(
    fold: bool, ahead: bool, comes_s: float, admitted_s: float
) -> None:
    """With async scheduling the step after the one in progress has been chosen already; at the instant at
    which a step ends, requests are seen before the engine chooses.
    """
    one = OneReplica(fold=fold, engine={"async_scheduling": ahead})
    one.submit(0, output=20)
    late = one.at(comes_s, lambda: one.submit(1))
    one.env.run()
    assert late.admitted_s == admitted_s


def test_tokens_of_folded_steps_are_known_before_they_are_delivered() -> None:
    one = OneReplica()
    sequence = one.submit(prompt=4, output=20)
    for instant, tokens in ((0.5, 0), (2.5, 2), (7.0, 7), (7.5, 7)):
        assert one.at(instant, lambda: one.replica.tokens_by_now(sequence)) == tokens
    assert sequence.generated == 1
    assert one.replica.tokens == 4 + 7


@pytest.mark.parametrize("fold", [True, False])
def test_an_aborted_sequence_leaves_a_queue_at_once_and_a_batch_with_the_step(fold: bool) -> None:
    one = OneReplica(fold=fold, max_num_seqs=1)
    running, waiting = one.submit(0, output=20), one.submit(1)
    one.env.run(until=3.5)
    for sequence in (waiting, running):
        one.replica.abort(sequence)
    one.env.run()
    assert one.reports == [(3.5, "aborted", 1), (4.0, "aborted", 0)]
    assert running.generated == 4
    assert one.replica.queues[0].block_pool.used == 0


@pytest.mark.parametrize(
    ("stages", "instant", "tokens"), [(1, 8.6, 8), (1, 9.0, 8), (2, 8.6, 3), (2, 11.0, 3), (2, 11.5, 4)]
)
def test_a_failure_loses_the_step_in_progress_and_charges_all_time_up_to_it(
    stages: int, instant: float, tokens: int
) -> None:
    """Also a step that would end at that very instant."""
    one = OneReplica(stages=stages)
    sequence, late = one.submit(0, output=20), one.submit(1, output=20)
    assert set(one.at(instant, one.replica.fail, FAILURE)) == {sequence, late}
    one.env.run()
    assert sequence.generated == tokens
    assert sum(sequence.blame) == pytest.approx(instant)
    assert (one.replica.is_up, one.replica.requests) == (False, 0)


def test_a_report_goes_to_every_listener_that_wants_it_in_the_order_of_events() -> None:
    one = OneReplica()
    seen = listened(one)
    one.submit(0, prompt=70, output=2)  # two chunks
    one.env.run()
    assert seen == [
        (1.0, "steps_passed", 1),
        (1.0, "last_chunk", 0, 1.0),
        (2.0, "steps_passed", 2),
        (2.0, "last_chunk", 0, 1.0),  # of the one token that it decodes
        (3.0, "finished", 0),
        (3.0, "steps_passed", 3),
    ]
    assert one.reports == [(3.0, "finished", 0)]


def test_a_prefill_engine_gives_its_sequences_away_when_their_prompts_are_computed() -> None:
    one = OneReplica(role="prefill")
    seen = listened(one)
    sequence = one.submit(0, prompt=70, output=5)
    one.env.run()
    assert [event for event in seen if event[1] != "steps_passed"] == [
        (1.0, "last_chunk", 0, 1.0),
        (2.0, "prefilled", 0),
    ]
    assert (sequence.generated, sequence.computed, one.replica.running) == (0, 70, 0)


def test_a_prefill_engine_that_gives_first_tokens_finishes_answers_of_one() -> None:
    one = OneReplica(role="prefill", first_token_from_prefill=True)
    seen = listened(one)
    one.submit(0, output=1)
    one.submit(1, output=2)
    one.env.run()
    assert [event[1:3] for event in seen if event[1] in ("finished", "prefilled")] == [
        ("finished", 0),
        ("prefilled", 1),
    ]


def test_prompts_wait_for_each_other_while_others_decode_where_the_engine_says_so() -> None:
    """TensorRT-LLM's `batch_wait_timeout_iters`: three steps from the first that waits."""
    one = OneReplica(engine={"batch_wait_timeout_iters": 3})
    one.submit(0, output=30)
    late = []
    for number, instant in ((1, 2.5), (2, 4.5)):
        one.env.run(until=instant)
        late.append(one.submit(number))
    one.env.run()
    assert [sequence.admitted_s for sequence in late] == [6.0, 6.0]


def test_data_parallel_ranks_step_together() -> None:
    """A step of two ranks takes as long as one, and the emptier rank gets the next request."""
    one = OneReplica(ranks=2, engine={"data_parallel_size": 2})
    sequences = [one.submit(number, output=4) for number in range(3)]
    one.env.run()
    assert [sequence.queue for sequence in sequences[:2]] == one.replica.queues
    assert [at_s for at_s, _, _ in one.reports] == [4.0, 4.0, 4.0]
    assert one.env.now == 4.0


def test_an_idle_engine_does_not_let_a_request_wait_for_steps_that_are_never_taken() -> None:
    one = OneReplica(engine={"async_scheduling": True})
    one.submit(0, output=2)
    # In its last step, behind which an engine would have chosen another one already.
    late = one.at(1.5, lambda: one.submit(1, output=1))
    one.env.run()
    assert late.admitted_s == 2.0


def test_forgetting_to_settle_folded_rounds_is_refused() -> None:
    one = OneReplica(stages=2)
    sequence = one.submit(output=20)
    one.env.run(until=8.0)
    for forgetful in (
        lambda: one.core.enqueue(sequence),
        lambda: one.core.abort(sequence),
        lambda: one.core.tokens_by_now(sequence),
        one.core.fail,
        one.core.stop,
    ):
        with pytest.raises(AssertionError, match="settle"):
            forgetful()
