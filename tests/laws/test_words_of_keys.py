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

pytestmark = pytest.mark.unchecked  # hundreds of runs, whose rows are held against each other

# Keys whose reading moves no record of this run, by chance: rows do not show it.
ACT_UNSEEN: set[tuple[str, str]] = {
    ("sessions behind PCIe switches", "router{prefix_aware}.load_weight"),  # the fullest cache is also idle
    ("prompts and answers apart", "engine.batch_wait_timeout_iters"),  # prompts come one by one
    ("few blocks", "engine.batch_wait_timeout_iters"),
    ("whole prompts, kernel by kernel", "topology.gpus.*.pcie_generation"),  # the next ones launch as fast
    ("tiers written on eviction, over PCIe 4", "topology.parts.host.latency_s"),
    ("tiers written on eviction, over PCIe 4", "kv_reload{cost}.margin"),  # no reload is near the balance
    ("layers with states", "model.heads"),  # every layer there has states, or heads of its own
    (
        "layers with states",
        "model.layer_shapes[].linear.gate_rank",
    ),  # a product of few rows: its start is all
    ("layers with states", "model.layer_shapes[].at[]"),  # a stage sums over its layers
    ("layers of three shapes", "model.layer_shapes[].at[]"),
    *(
        ("experts that lose a rank", f"recovery.{key}")
        for key in ("detection_s", "process_start_s", "graph_capture_s")
    ),
    ("experts that lose a rank", "recovery.weights_bytes_per_s"),  # it goes on smaller and never restarts
    ("faults", "faults[].at_s"),  # what comes while it is down would have gone to the other replica
}
COPIES_BESIDE = (
    "tiers",
    "drives",
    "drives that hold up",
    "a remote store",
    "a remote store as fast as its links",
)
"""Copies to KV tiers share links there, so that prices alone do not tell; no request waits for them."""


SAMPLE = 6  # keys of a scenario; all of them take ten minutes: `pytest --exhaustive`


def written_numbers(case: Case) -> list[Key]:
    """One place of each number that the scenario has, kernels' left out."""
    return [
        keys[0]
        for name, keys in case.keys.items()
        if keys[0].value is not None and not name.startswith(KERNELS)
    ]


def fault_of(case: Case, key: Key, *, may_be_unseen: bool = False) -> str:
    """What is wrong with the word of a key, as changes of it show; nothing where it is right. What is said to
    have acted `may_be_unseen` in the rows; what is said to have no effect never changes any.
    """
    word = word_of(case.ran, key.path)
    outcomes = set()
    for values in candidates(key).values():
        for value in values:
            outcomes.add(outcome(case, key, value))
            if "acted" in outcomes:
                break
    if isinstance(word, NoEffect) and "acted" in outcomes:
        return f"{key.name} is said to have no effect ({word.why}), and changes a record"
    if (
        isinstance(word, Acted)
        and not may_be_unseen
        and "same" in outcomes
        and not outcomes & {"acted", "cannot be"}
    ):
        return f"{key.name} is said to have acted, and changes nothing"
    return "" if word is not None else f"{key.name} has no word"


def faults(scenario: str, keys: list[Key]) -> list[str]:
    case = SCENARIOS[scenario]
    return [fault for key in keys if (fault := fault_of(case, key, may_be_unseen=_unseen(scenario, key)))]


def _unseen(scenario: str, key: Key) -> bool:
    if key.name.startswith("topology.wires[].links"):
        return True  # fewer would be slower, and fewer than one cannot be
    of_machine = key.name.startswith(("topology.", "engine.kv_tiers."))
    return (scenario, key.name) in ACT_UNSEEN or (scenario in COPIES_BESIDE and of_machine)


def test_a_sample_of_words_is_right() -> None:
    keys = written_numbers(SCENARIOS["one GPU"])
    assert not faults("one GPU", random.Random(0).sample(keys, 3))


@pytest.mark.slow
@pytest.mark.parametrize("scenario", BASES)
def test_every_word_is_right(scenario: str, exhaustive: bool) -> None:
    keys = written_numbers(SCENARIOS[scenario])
    if not exhaustive:
        keys = random.Random(scenario).sample(keys, min(SAMPLE, len(keys)))
    assert not faults(scenario, keys)
