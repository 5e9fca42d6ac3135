"""A run that stands still says of every open request where it is and what it waits for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import sim
from sim.runtime.kv.tiers import Level
from sim.scenario import Scenario
from tests.laws.folding_scenarios import small

BASE: dict[str, Any] = {
    "topology": "nd-h100-v5",
    "model": small("llama-3-8b"),
    "engine": {"num_gpu_blocks_override": 40, "max_model_len": 480},
    "workload": {"arrivals": {"kind": "burst"}, "prompt_tokens": 200, "output_tokens": 9, "requests": 7},
}
POOLS = {"prefill": {"replicas": 1}, "decode": {"replicas": 1}}


@dataclass(frozen=True)
class NeverRouter:
    """Waits for ever."""

    def __call__(self, request: Any, replicas: Any, random: np.random.Generator) -> int | None:
        return None


def message(described: dict[str, Any], **more: Any) -> str:
    scenario = Scenario.model_validate({**BASE, **described})
    if more:
        scenario = scenario.model_copy(update=more)
    with pytest.raises(sim.UnfinishedError) as stuck:
        sim.simulate(scenario)
    assert stuck.value.exit_status == 4
    return str(stuck.value)


def test_requests_that_a_router_keeps_for_ever_are_named_with_the_replicas_it_could_choose() -> None:
    text = message({"replicas": 2}, router=NeverRouter())
    assert "7 requests are open" in text
    wanted = "router: requests 0, 1, 2, 3, 4 and 2 more wait for the router to name one of replicas 0, 1 of"
    assert wanted in text


def test_requests_behind_replicas_that_have_all_failed_are_named() -> None:
    text = message({"faults": [{"replica": 0, "at_s": 0.0}]})
    assert re.search(r"router: requests 0, .* wait for replica 0 of .*, all of which have failed", text)
    assert "replica 0 has failed" in text


def test_kv_caches_whose_receiver_has_failed_are_named_with_what_they_need() -> None:
    text = message({"pools": POOLS, "faults": [{"replica": 1, "at_s": 0.0}]})
    assert re.search(r"KV transfers to replica 1: \d wait for blocks there; request 0 from replica 0", text)
    assert "needs 13, which has failed" in text


def test_kv_caches_on_a_link_that_is_down_are_named_with_the_link() -> None:
    down = [{"link": "node0.gpu0->nvlink0", "at_s": 0.0}]
    cut = {"pools": POOLS, "faults": down, "time_limit_s": 9.0}
    text = "\n".join(sim.simulate(Scenario.model_validate({**BASE, **cut})).unfinished)
    assert "KV transfers to replica 1: " in text
    assert "under way" in text
    assert "transfers wait for node0.gpu0->nvlink0, which is down" in text
    given_up = message({"pools": POOLS, "faults": down})
    assert (
        "replica 0 has failed: its traffic has no way around node0.gpu0->nvlink0, which is down" in given_up
    )


def test_sequences_whose_kv_is_never_loaded_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Level, "read", lambda level, units, tokens, done: lambda: None)
    engine = {**BASE["engine"], "kv_tiers": {"host": {"capacity_bytes": "1 GB"}}, "max_num_seqs": 1}
    prefix = {**BASE["workload"], "prefix": {"tokens": 240, "groups": 7}, "requests": 20}
    text = message({"engine": engine, "kv_reload": "always", "workload": prefix})
    assert re.search(r"replica 0: requests? .* waits? for KV from a lower tier", text)
    assert "whose KV cache is being loaded" in text


@pytest.mark.unchecked
def test_the_first_in_a_queue_is_named_with_the_blocks_it_needs_and_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sim.runtime.engine.queue import RequestQueue

    monkeypatch.setattr(RequestQueue, "admit", lambda queue, sequence, cached, tokens: False)
    text = message({})
    assert (
        "replica 0: request 0 is the first in its queue and needs 13 KV blocks, of which it holds 0" in text
    )


def test_a_limit_reached_with_all_finished_waits_for_nothing() -> None:
    """An engine that is down holds nobody up when nothing is open."""
    late = {"faults": [{"replica": 1, "at_s": 0.0}], "replicas": 2, "time_limit_s": 50.0}
    result = sim.simulate(Scenario.model_validate({**BASE, **late}))
    assert result.summary()["completed"] == 7
    assert result.unfinished == ()
