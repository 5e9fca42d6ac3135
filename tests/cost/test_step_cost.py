from __future__ import annotations

import pytest

from sim.cost.batch import Batch
from sim.cost.program import NO_TRAFFIC
from sim.cost.step_cost import GivenCost

COST = GivenCost(step_s=1.0, sequence_s=0.1, token_s=0.01)
BATCH = Batch(chunks=((20, 0),), decodes=3, decode_kv_tokens=500, sampled=4)


def test_a_given_step_takes_its_start_and_so_much_a_sequence_and_a_token() -> None:
    seconds, causes = COST.step(BATCH)
    assert seconds == pytest.approx(1.0 + 0.1 * 4 + 0.01 * 23)
    assert causes.total_s == causes.compute == seconds


def test_given_steps_do_not_depend_on_the_context() -> None:
    decodes = Batch(decodes=3, decode_kv_tokens=500, sampled=3)
    seconds, causes = COST.decode_steps(decodes, 5)
    assert seconds.tolist() == [COST.step(decodes)[0]] * 5
    assert causes(4).compute == 4 * COST.step(decodes)[0]


def test_a_given_step_is_one_op_and_no_traffic() -> None:
    assert COST.program(BATCH).total_s == COST.step(BATCH)[0]
    assert COST.program(BATCH).links == ()
    assert COST.traffic(BATCH) == NO_TRAFFIC
