"""A fold is as long as nothing can change: no end, no admission, no block missing. Never a step longer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sim.runtime.engine.attribution import StepLedger
from sim.runtime.engine.flight import Flight, begun
from sim.runtime.engine.fold_horizon import MAX_FOLDED_STEPS, fold_horizon, pipeline_fold_horizon
from sim.runtime.engine.queue import RequestQueue
from sim.runtime.engine.sequence import Sequence
from sim.runtime.engine.speculation import Speculator
from tests.runtime.engine.test_queue import admitted, queue_of, waiting

PLAIN = Speculator(None, 0)


def decoding(queue: RequestQueue, prompts: list[int], outputs: list[int]) -> list[Sequence]:
    """Admitted, with their first tokens."""
    running = []
    for number, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        one = waiting(queue, number, prompt, output)
        assert admitted(queue, one)
        one.generated, one.last_token_s = 1, 0.0
        running.append(one)
    return running


def flight_of(queue: RequestQueue, *, together: bool) -> Flight:
    """The step of all running sequences, with their blocks."""
    if together:
        grants = queue.allocate_together(len(queue.running))
    else:
        grants = [(one, 1) for one in queue.running if queue.allocate(one, 1)]
    part, batch = begun(queue, grants, PLAIN)
    return Flight([part], batch, 0.0)


def horizon(queue: RequestQueue, *, together: bool = False, step: int = 0) -> int:
    return fold_horizon(flight_of(queue, together=together), [queue], PLAIN, step)


def test_a_batch_folds_until_its_first_sequence_ends() -> None:
    for together in (True, False):
        queue = queue_of(1000, ledger=StepLedger())
        decoding(queue, [8, 8, 8], [30, 12, 40])
        assert horizon(queue, together=together) == 11


def test_a_batch_folds_no_further_than_its_vectors_may_be_long() -> None:
    queue = queue_of(100_000, ledger=StepLedger())
    decoding(queue, [8], [200_000])
    assert horizon(queue) == MAX_FOLDED_STEPS


@given(
    st.lists(st.integers(1, 20), min_size=2, max_size=5),
    st.integers(0, 12),
    st.booleans(),
    st.integers(1, 60),
)
def test_a_fold_has_the_blocks_for_its_last_step_and_not_for_one_more(
    prompts: list[int], spare: int, together: bool, output: int
) -> None:
    needed = sum(-(-(prompt + 1) // 4) for prompt in prompts)  # of the first step
    queue = queue_of(needed + spare, ledger=StepLedger())
    running = decoding(queue, prompts, [output + 1] * len(prompts))
    steps = horizon(queue, together=together)

    def more_blocks(steps: int) -> int:
        """Beyond those of the first step."""
        return sum(-(-(one.computed + steps - 1) // 4) - -(-one.computed // 4) for one in running)

    assert 1 <= steps <= output
    assert more_blocks(steps) <= spare
    assert steps == output or more_blocks(steps + 1) > spare


def test_a_waiting_sequence_ends_the_fold_where_it_may_be_admitted() -> None:
    queue = queue_of(1000, ledger=StepLedger())
    decoding(queue, [8, 8], [50, 50])
    later = waiting(queue, 9, 4)
    later.eligible_step = 7
    assert horizon(queue, step=3) == 4
    later.eligible_step = 0
    queue.roomier_after_step = 3
    assert horizon(queue, step=3) == 1


def test_a_batch_that_leaves_a_running_sequence_out_or_resumes_one_is_not_folded() -> None:
    queue = queue_of(1000, ledger=StepLedger())
    left_out, resumed = decoding(queue, [8, 8], [50, 50])
    part, batch = begun(queue, [(resumed, 1)], PLAIN)
    assert fold_horizon(Flight([part], batch, 0.0), [queue], PLAIN, 0) == 1
    resumed.generated += 1
    left_out.recomputing = True
    assert horizon(queue) == 1


def test_batches_of_a_pipeline_fold_to_their_own_ends_while_all_have_blocks() -> None:
    queue = queue_of(1000)
    running = decoding(queue, [8, 8, 8, 8], [10, 20, 30, 40])
    flights = []
    for pair in (running[:2], running[2:]):
        part, batch = begun(queue, [(one, 1) for one in pair if queue.allocate(one, 1)], PLAIN)
        flights.append(Flight([part], batch, 0.0))
    assert pipeline_fold_horizon(flights, queue, PLAIN, 2) == [9, 29]
    assert pipeline_fold_horizon(flights, queue, PLAIN, 4) == []  # the rule would make four batches of them
    assert pipeline_fold_horizon(flights[:1], queue, PLAIN, 1) == []  # a sequence is in no batch
    queue.block_pool.allocate(queue.block_pool.free_blocks - 4)
    # Nine tokens each with this step: four blocks last for one each, until the thirteenth.
    assert pipeline_fold_horizon(flights, queue, PLAIN, 2) == [8, 8]
