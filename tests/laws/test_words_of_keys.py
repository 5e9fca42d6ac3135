"""The law of words: a key whose change changes no record is not said to act, and one that is said to have no
effect changes none.
"""

from __future__ import annotations

import random

import pytest

from sim.effects.words import word_of
from sim.results.key_words import Acted, NoEffect
from tests.laws.changed_keys import candidates, outcome
from tests.laws.every_key import KERNELS, Key
from tests.laws.key_scenarios import BASES, SCENARIOS, Case

# Keys whose reading moves no record of this run, by chance: rows do not show it.
ACT_UNSEEN: set[tuple[str, str]] = {
    ("sessions behind PCIe switches", "router{prefix_aware}.load_weight"),  # the nearest cache is also idle
}


def written_numbers(case: Case) -> list[Key]:
    """One place of each number that the scenario has, kernels' left out."""
    return [
        keys[0]
        for name, keys in case.keys.items()
        if keys[0].value is not None and not name.startswith(KERNELS)
    ]


def fault_of(case: Case, key: Key) -> str:
    """What is wrong with the word of a key, as changes of it show; nothing where it is right."""
    word = word_of(case.ran, key.path)
    outcomes = set()
    for values in candidates(key).values():
        for value in values:
            outcomes.add(outcome(case, key, value))
            if "acted" in outcomes:
                break
    if isinstance(word, NoEffect) and "acted" in outcomes:
        return f"{key.name} is said to have no effect ({word.why}), and changes a record"
    if isinstance(word, Acted) and "same" in outcomes and not outcomes & {"acted", "cannot be"}:
        return f"{key.name} is said to have acted, and changes nothing"
    return "" if word is not None else f"{key.name} has no word"


def faults(scenario: str, keys: list[Key]) -> list[str]:
    case = SCENARIOS[scenario]
    return [
        fault for key in keys if (scenario, key.name) not in ACT_UNSEEN and (fault := fault_of(case, key))
    ]


def test_a_sample_of_words_is_right() -> None:
    keys = written_numbers(SCENARIOS["one GPU"])
    assert not faults("one GPU", random.Random(0).sample(keys, 6))


@pytest.mark.slow
@pytest.mark.parametrize("scenario", BASES)
def test_every_word_is_right(scenario: str) -> None:
    assert not faults(scenario, written_numbers(SCENARIOS[scenario]))
