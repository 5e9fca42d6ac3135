"""The law of knobs: a number of the scenario that is changed changes a record of some run.

`SILENT` lists the keys that change none, and why. A key that falls silent fails here, and so does one of the
list that has begun to act: then it is to be taken off.
"""

from __future__ import annotations

import random

import pytest

from tests.laws.changed_keys import directions, probe, silent
from tests.laws.every_key import schema_keys, starred
from tests.laws.key_scenarios import SCENARIOS
from tests.laws.silent_keys import HEARD_IN, SILENT, UNREACHED

pytestmark = pytest.mark.unchecked  # hundreds of runs, whose rows are held against each other


def keys() -> list[str]:
    return sorted({name for case in SCENARIOS.values() for name in case.keys})


@pytest.mark.slow
def test_every_number_of_the_schema_stands_in_some_scenario() -> None:
    assert schema_keys() - {starred(name) for name in keys()} == set(UNREACHED)


@pytest.mark.slow
def test_the_list_of_silent_keys_names_keys() -> None:
    known = {name if way == "either" else f"{name}, {way}" for name in keys() for way in directions(name)}
    assert set(SILENT) <= known


@pytest.mark.slow
def test_a_sample_of_keys_acts_or_is_known_not_to() -> None:
    wanted = random.Random(0).sample([name for name in keys() if name not in SILENT], 25)
    assert silent(probe(wanted, HEARD_IN, 6)) <= set(SILENT)


@pytest.mark.slow
def test_every_key_acts_or_is_known_not_to() -> None:
    assert silent(probe(first_of=HEARD_IN, most=6)) == set(SILENT)
