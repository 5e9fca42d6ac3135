"""Each second of a step is charged to the cause of the request that has the same name."""

from __future__ import annotations

import pytest

from sim.cost.batch import Causes
from sim.results.blame import CAUSES
from sim.runtime.engine import attribution
from sim.runtime.engine.attribution import DECODE_STEP, PREFILL_STEP, STEP_CAUSES, StepLedger
from sim.runtime.engine.sequence import Sequence
from sim.workload.request import Request


def test_a_steps_cause_is_charged_to_the_requests_cause_of_its_name() -> None:
    for columns, compute in ((PREFILL_STEP, "prefill_compute"), (DECODE_STEP, "decode_compute")):
        assert [CAUSES[column] for column in columns] == [compute, *STEP_CAUSES[1:]]


def test_the_index_spaces_differ_and_each_constant_belongs_to_its_own() -> None:
    constants = {name: value for name, value in vars(attribution).items() if type(value) is int}
    assert constants
    for name, index in constants.items():
        space, _, cause = name.partition("_")
        assert {"STEP": STEP_CAUSES, "REQUEST": CAUSES}[space][index] == cause.lower()
    assert attribution.STEP_SHARING != attribution.REQUEST_SHARING


def test_a_sequence_is_charged_for_the_steps_between_two_readings_and_no_others() -> None:
    ledger = StepLedger()
    before, during = [Causes(*(scale * n for n in range(1, 7))) for scale in (100.0, 1.0)]
    ledger.add((*before, 100.0, 100.0, 100.0))
    sequence = Sequence(Request(0, 0.0, 10, 5), 5, 0.0, 0)
    sequence.admit(0.0, 0, ledger.read())
    ledger.add((*during, 7.0, 8.0, 9.0))
    ledger.charge(sequence, now=sum(range(1, 10)))
    ledger.charge(sequence, now=sum(range(1, 10)))
    charged = dict(zip(CAUSES, sequence.blame, strict=True))
    assert charged["prefill_compute"] == 1.0
    assert [charged[cause] for cause in STEP_CAUSES[1:]] == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    assert sum(sequence.blame) == pytest.approx(45.0)


def test_a_sequence_that_waits_has_no_share_in_the_steps_of_others() -> None:
    ledger = StepLedger()
    sequence = Sequence(Request(0, 0.0, 10, 5), 5, 0.0, 0)
    ledger.add([1.0] * len(STEP_CAUSES))
    ledger.charge(sequence, now=8.0)
    assert sum(sequence.blame) == 0.0
