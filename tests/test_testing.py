"""Rules of a script: what they may see, what is refused, and the checkers that try them."""

from __future__ import annotations

import pickle
from itertools import count
from typing import Any

import numpy as np
import pytest

from sim.cost.collectives.demands import ALGORITHMS
from sim.cost.collectives.send_graphs import SEND_GRAPHS
from sim.inputs.engine import Engine
from sim.inputs.errors import InfeasibleError, InputError
from sim.policy.routing import ROUTERS
from sim.policy.scheduling import ContinuousBatching, PrefillFirst, StaticBatching
from sim.scenario.changes import with_changes
from sim.scenario.scenario import Scenario
from sim.simulate import simulate
from sim.testing import check_collective, check_router, check_scheduler

BURST = {"arrivals": {"kind": "burst"}, "prompt_tokens": 200, "output_tokens": 9, "requests": 6}


def scenario(**described: Any) -> Scenario:
    return Scenario.model_validate(
        {"topology": "a100-x4", "model": "llama-3-8b", "workload": BURST, **described}
    )


@pytest.mark.slow
@pytest.mark.parametrize("rule", [ContinuousBatching(), PrefillFirst(), StaticBatching()])
def test_the_shipped_rules_pass_when_a_script_gives_them(rule: Any) -> None:
    check_scheduler(rule)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROUTERS)
def test_the_shipped_routers_pass(kind: str) -> None:
    check_router(ROUTERS[kind]())


def test_a_callable_schedules_as_the_word_for_it_does() -> None:
    word = simulate(scenario(engine={"scheduler": "static", "max_num_seqs": 2}))
    rule = simulate(scenario(engine={"scheduler": StaticBatching(), "max_num_seqs": 2}))
    assert rule.requests.equals(word.requests)


def test_a_callable_survives_changes_pools_copies_and_dumps() -> None:
    rule = StaticBatching()
    pools = {"one": {"engine": {"max_num_seqs": 2}}}
    base = scenario(engine={"scheduler": rule}, pools=pools)
    changed = with_changes(base, {"engine.block_size": 32})
    assert changed.engine.scheduler is rule
    assert changed.pools["one"].engine.scheduler is rule
    assert pickle.loads(pickle.dumps(base)).engine.scheduler == rule
    assert base.model_dump(mode="json")["engine"]["scheduler"] == "a script's StaticBatching"
    assert Engine.model_json_schema()["properties"]["scheduler"]["enum"][0] == "vllm"


def test_a_word_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="'vllm', 'continuous', 'static' or 'one_at_a_time'"):
        Engine.model_validate({"scheduler": "vlm"})


def without_blocks(engine: Any) -> Any:
    return [(engine.running[0], 1)] if engine.running else PrefillFirst()(engine)


def twice(engine: Any) -> Any:
    grants = PrefillFirst()(engine)
    return [*grants, *grants]


def too_many(engine: Any) -> Any:
    return [(sequence, tokens + 1) for sequence, tokens in PrefillFirst()(engine)]


def beyond_pending(engine: Any) -> Any:
    for sequence in engine.running:
        engine.allocate(sequence, sequence.pending_tokens + 1)
    return PrefillFirst()(engine)


def beyond_seats(engine: Any) -> Any:
    grants = []
    while (sequence := engine.next_waiting()) is not None:
        engine.admit(sequence, 0, sequence.known_tokens)
        grants.append((sequence, sequence.known_tokens))
    return grants or PrefillFirst()(engine)


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (lambda engine: None, "returned None: must be a list of"),
        (lambda engine: [3], r"granted 3: must be \(sequence, tokens\)"),
        (lambda engine: [(engine.next_waiting(), 1)], "request 0: must be one of running"),
        (without_blocks, "grants 1 tokens to request 0: must first get blocks"),
        (twice, "request 0 twice: must be once a step"),
        (too_many, "grants 201 tokens to request 0: must be 1 to 200"),
        (beyond_pending, "allocates blocks for 2 tokens of request 0: must be 1 to 1"),
        (beyond_seats, "beside 2 that run: must leave at most max_running = 2 running"),
        (lambda engine: engine.preempt(engine.next_waiting()), "preempts request 0: must be one of running"),
        (lambda engine: engine.admit(engine.next_waiting(), 7, 1), "cached_tokens = 7: must be 0"),
        (lambda engine: engine.admit(3, 0, 1), "admits 3: must be what next_waiting"),
    ],
)
def test_a_rule_that_grants_nonsense_ends_the_run_with_one_message(rule: Any, why: str) -> None:
    with pytest.raises(InputError, match=f"engine.scheduler = .*{why}"):
        simulate(scenario(engine={"scheduler": rule, "max_num_seqs": 2}))


def test_a_rule_that_counts_its_calls_is_found() -> None:
    calls = count()

    def moody(engine: Any) -> Any:
        return (PrefillFirst() if next(calls) % 3 else StaticBatching())(engine)

    with pytest.raises(InputError, match=r"moody: .*(differently|differ)"):
        check_scheduler(moody)


@pytest.mark.parametrize("answer", [2, -1, 1.0, "0", True, [0]])
@pytest.mark.parametrize("pools", [False, True])
def test_a_router_that_answers_nonsense_ends_the_run_with_one_message(answer: Any, pools: bool) -> None:
    def lost(request: Any, replicas: Any, random: Any) -> Any:
        return answer

    service = (
        {"pools": {"prefill": {}, "decode": {"replicas": 2}}, "hand_over": {"router": lost}}
        if pools
        else {"replicas": 2, "router": lost}
    )
    with pytest.raises(InputError, match="must be a place from 0 to 1"):
        simulate(scenario(**service))


def test_a_router_may_answer_with_an_integer_of_numpy() -> None:
    result = simulate(scenario(replicas=2, router=lambda request, replicas, random: np.int64(1)))
    assert result.requests["replica"].unique().to_list() == [1]


def test_a_router_that_waits_for_ever_is_found() -> None:
    with pytest.raises(InputError, match="one replica: 24 requests are open"):
        check_router(lambda request, replicas, random: None)


def _refuses(network: Any, ranks: Any) -> Any:
    raise InfeasibleError("not here")


RING, SENDS = ALGORITHMS["all_reduce"]["ring"], SEND_GRAPHS["all_reduce"]["ring"]
NOT_COLLECTIVES: dict[str, tuple[str, Any, Any, str]] = {
    "another op": ("all_sum", RING, SENDS, "op = all_sum: must be one of all_reduce"),
    "bytes that cannot be": ("all_reduce", lambda network, ranks: {0: -1.0}, SENDS, "has -1.0 on link 0"),
    "other bytes": (
        "all_reduce",
        lambda network, ranks: {link: 2.0 * share for link, share in RING(network, ranks).items()},
        SENDS,
        "two GPUs: link .*: the load has 2 bytes per byte of message, the sends have 1",
    ),
    "half of the way": (
        "all_reduce",
        ALGORITHMS["broadcast"]["ring"],
        SEND_GRAPHS["broadcast"]["ring"],
        "two GPUs: node0.gpu0 hears nothing of node0.gpu1, whose bytes it needs in all_reduce",
    ),
    "sends that do not overlap": (
        "broadcast",
        ALGORITHMS["broadcast"]["ring"],
        lambda book, n_bytes, ranks, chunks: SEND_GRAPHS["broadcast"]["ring"](book, n_bytes, ranks, 1),
        "four GPUs wired to each other: in 64 chunks the sends take .* they must overlap",
    ),
    "no machine": ("all_reduce", _refuses, SENDS, "refuses every group: must run on one of two GPUs"),
}


@pytest.mark.parametrize(("op", "load", "sends", "why"), NOT_COLLECTIVES.values(), ids=NOT_COLLECTIVES)
def test_a_collective_whose_forms_differ_is_refused(op: str, load: Any, sends: Any, why: str) -> None:
    with pytest.raises(InputError, match=why):
        check_collective(op, load, sends)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("op", "name"),
    [("all_reduce", "nvls"), ("all_gather", "ring"), ("all_to_all", "direct"), ("send_recv", "direct")],
)
def test_shipped_collectives_pass(op: str, name: str) -> None:
    check_collective(op, ALGORITHMS[op][name], SEND_GRAPHS[op][name])
