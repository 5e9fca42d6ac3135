"""Each invariant is shown to catch a bug that is planted for it; a checked run is the run itself."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

import pytest
import simpy

from sim.cost.collectives.demands import Demand
from sim.results.blame import CAUSES
from sim.runtime.engine.block_pool import BlockPool
from sim.runtime.engine.engine_core import EngineCore
from sim.runtime.engine.queue import HeldBlocks
from sim.runtime.engine.replica import Replica
from sim.runtime.engine.sequence import Sequence
from sim.runtime.engine.stage import Stage
from sim.runtime.fabric.fabric import Fabric
from sim.runtime.fabric.link_counters import LinkCounters
from sim.runtime.fabric.transfer import Transfer
from sim.runtime.kv.transfer_demands import TransferDemands
from sim.runtime.self_checks import BrokenInvariantError
from sim.runtime.service import Service
from sim.scenario import Scenario
from sim.simulate import simulate
from tests.laws.folding_scenarios import small

ALL_MEET: dict[str, Any] = {
    "topology": "nd-h100-v5",
    "model": small("llama-3-8b"),
    "engine": {
        "tensor_parallel_size": 2,
        "num_gpu_blocks_override": 40,
        "max_model_len": 480,
        "kv_tiers": {"host": {"capacity_bytes": "200 MB"}},
    },
    "pools": {"prefill": {"replicas": 1}, "decode": {"replicas": 1}},
    "hand_over": {"first_token": "prefill"},
    "workload": {
        "arrivals": {"kind": "burst"},
        "prompt_tokens": 20,
        "output_tokens": 20,
        "requests": 6,
        "prefix": {"tokens": 160, "groups": 4},
    },
}
ALONE = {
    "topology": "nd-h100-v5",
    "model": small("llama-3-8b"),
    "engine": {"tensor_parallel_size": 2, "max_num_seqs": 2},
    "workload": {"arrivals": {"kind": "burst"}, "prompt_tokens": 40, "output_tokens": 9, "requests": 6},
}


def broken(described: dict[str, Any]) -> str:
    with pytest.raises(BrokenInvariantError) as found:
        simulate(Scenario.model_validate(described), check=True)
    assert found.value.invariant in str(found.value)
    return found.value.invariant


@pytest.mark.parametrize("described", [ALL_MEET, ALONE], ids=["all meet", "alone"])
@pytest.mark.parametrize("fold", [True, False])
def test_a_checked_run_has_the_rows_of_an_unchecked_one(described: dict[str, Any], fold: bool) -> None:
    scenario = Scenario.model_validate(described)
    plain, checked = (simulate(scenario, fold=fold, check=check) for check in (False, True))
    for table in ("requests", "steps", "gaps", "links", "gpus", "blame", "hand_overs", "kv_tiers"):
        assert getattr(plain, table).equals(getattr(checked, table)), table


def test_a_byte_in_a_thousand_too_many_on_one_link_of_a_demand_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    demand_of = TransferDemands.__call__

    def leaky(demands: TransferDemands, *how: Any) -> Demand:
        demand = demand_of(demands, *how)
        return Demand(demand.links, (demand.n_bytes[0] * 1.001, *demand.n_bytes[1:]), demand.latency_s)

    monkeypatch.setattr(TransferDemands, "__call__", leaky)
    assert broken(ALL_MEET) == "bytes"


def test_counters_that_lose_a_byte_in_a_thousand_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    carry = LinkCounters.carry

    def leaky(counters: LinkCounters, links: Iterable[int], n_bytes: Iterable[float], *more: float) -> None:
        first, *rest = n_bytes
        carry(counters, links, (first * 0.999, *rest), *more)

    monkeypatch.setattr(LinkCounters, "carry", leaky)
    assert broken(ALONE) == "bytes"


def test_a_transfer_that_is_faster_than_its_share_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    set_level = Transfer.set_level
    monkeypatch.setattr(Transfer, "set_level", lambda self, level, now: set_level(self, 1.001 * level, now))

    def two(env: simpy.Environment, fabric: Fabric) -> Generator[simpy.Event, object, object]:
        yield fabric.transfer({0: 1e9}) & fabric.transfer({0: 2e9, 1: 1e9})

    with pytest.raises(BrokenInvariantError, match="capacity broken at 0 s: node0"):
        simulate(Scenario.model_validate(ALONE), beside=[two], check=True)


def test_a_block_that_is_lost_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    free = BlockPool.free

    def forgetful(pool: BlockPool, unhashed: int, units: tuple[int, ...] = ()) -> None:
        free(pool, max(0, unhashed - 1), units)

    monkeypatch.setattr(BlockPool, "free", forgetful)
    assert broken(ALONE) == "KV blocks"


def test_blocks_of_a_sequence_under_way_that_are_lost_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeldBlocks, "free", lambda self: None)
    assert broken(ALL_MEET) == "KV blocks"


@pytest.mark.parametrize("cause", ["admission", "hand_over", "memory"])
def test_a_cause_that_is_dropped_is_caught(monkeypatch: pytest.MonkeyPatch, cause: str) -> None:
    number = CAUSES.index(cause)
    record = Service._record

    def forgetful(service: Service, sequence: Sequence, status: Any) -> None:
        sequence.blame[number] = 0.0
        record(service, sequence, status)

    monkeypatch.setattr(Service, "_record", forgetful)
    assert broken(ALL_MEET) == "causes"


def test_seconds_charged_to_the_queue_that_were_none_of_it_break_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = Service._record
    admission, memory = CAUSES.index("admission"), CAUSES.index("memory")

    def swapped(service: Service, sequence: Sequence, status: Any) -> None:
        blame = sequence.blame
        blame[admission], blame[memory] = blame[memory], blame[admission]
        record(service, sequence, status)

    monkeypatch.setattr(Service, "_record", swapped)
    assert broken(ALONE) == "Little"


def test_a_time_that_has_not_come_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Service._record

    def early(service: Service, sequence: Sequence, status: Any) -> None:
        assert sequence.first_token_s is not None
        sequence.first_token_s += 1.0
        record(service, sequence, status)

    monkeypatch.setattr(Service, "_record", early)
    assert broken(ALONE) == "causality"


def test_a_wake_up_that_is_lost_is_caught_at_its_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replica, "_has_room", lambda self: None)
    tight = {**ALL_MEET, "engine": {"num_gpu_blocks_override": 20, "max_model_len": 240,
                                    "max_num_batched_tokens": 64,
                                    "kv_tiers": {"host": {"capacity_bytes": "200 MB"}}}}  # fmt: skip
    assert broken({**tight, "workload": {**ALL_MEET["workload"], "requests": 4}}) == "work conservation"


def test_an_engine_that_does_not_look_at_its_queue_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = EngineCore._passed

    def sleepy(core: EngineCore, *how: Any) -> None:
        core._schedule_pending = True  # as if it would look soon
        passed(core, *how)

    monkeypatch.setattr(EngineCore, "_passed", sleepy)
    assert broken(ALONE) == "work conservation"


def test_a_seat_that_the_router_is_not_told_of_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Service, "_prefilled", lambda self, sequence: None)
    few = {**ALL_MEET, "router": "central_queue", "engine": {"max_num_seqs": 1}}
    assert broken(few) == "work conservation"


def test_a_gpu_that_is_busier_than_the_run_is_long_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stage.stop

    def late(stage: Stage) -> None:
        stage.busy_s += 100.0
        stop(stage)

    monkeypatch.setattr(Stage, "stop", late)
    assert broken(ALONE) == "busy"
