"""Changes by dotted path: what they reach, what they multiply, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest

from sim.inputs.errors import InputError
from sim.scenario import with_changes
from tests.scenario.small import scenario

POOLS = {"prefill": {}, "decode": {"engine": {"tensor_parallel_size": 1}}}


def test_a_change_makes_another_scenario_and_leaves_the_first() -> None:
    one = scenario()
    other = with_changes(one, {"engine.tensor_parallel_size": 4, "workload.requests": "x3"})
    assert (one.engine.tensor_parallel_size, one.workload.requests) == (1, 2)
    assert (other.engine.tensor_parallel_size, other.workload.requests) == (4, 6)


@pytest.mark.parametrize(("written", "block_size"), [("x2", 32), ("x0.5", 8), ("×2", 32), (64, 64)])
def test_a_factor_multiplies_a_number_and_keeps_it_whole(written: Any, block_size: int) -> None:
    assert with_changes(scenario(), {"engine.block_size": written}).engine.block_size == block_size


@pytest.mark.parametrize(
    ("change", "reached"),
    [
        ({"engine.tensor_parallel_size": 4}, (4, 1)),  # decode has its own
        ({"pools.decode.engine.tensor_parallel_size": 4}, (2, 4)),
        ({"engine.max_num_seqs": 7}, (2, 1)),
    ],
)
def test_a_change_reaches_the_pools_that_inherit_what_it_changes(
    change: dict[str, int], reached: tuple[int, int]
) -> None:
    pools = with_changes(scenario(engine={"tensor_parallel_size": 2}, pools=POOLS), change).pools
    assert tuple(pool.engine.tensor_parallel_size for pool in pools.values()) == reached
    if "engine.max_num_seqs" in change:
        assert {pool.engine.max_num_seqs for pool in pools.values()} == {7}


def test_another_kind_of_rule_leaves_the_knobs_of_the_old_one() -> None:
    first = scenario(router={"kind": "prefix_aware"}, placement={"kind": "strided", "stride": 4})
    other = with_changes(first, {"router.kind": "round_robin", "placement.kind": "packed"})
    assert [other.model_dump()[key]["kind"] for key in ("router", "placement")] == ["round_robin", "packed"]


def test_a_rule_of_a_script_stays_what_it_is() -> None:
    def first(request: object, replicas: object, random: object) -> int:
        return 0

    assert with_changes(scenario(router=first), {"engine.block_size": 32}).router is first


def test_servers_are_those_of_the_new_topology_whichever_change_is_first() -> None:
    changes = {"topology": "hgx-h200", "nodes": 3}
    for order in (changes, dict(reversed(changes.items()))):
        other = with_changes(scenario(), order)
        assert (other.topology.name, other.nodes) == ("hgx-h200", 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"engine.tensor_parallel_siez": 4},
            "engine.tensor_parallel_siez: .* did you mean 'tensor_parallel_size'",
        ),
        ({"engine.block_size.x": 4}, "engine.block_size.x: there is nothing below engine.block_size"),
        ({"engine.block_size": 0}, "engine.block_size = 0: must be at least 1"),
        ({"engine.block_size": "many"}, "engine.block_size = 'many': must be a whole number"),
        ({"engine.enable_prefix_caching": "x2"}, "'x2' multiplies a number, and the value is "),
        ({"faults.0.at_s": 4}, "faults.0.at_s: there is no element '0'; there are 0"),
        ({"on_failure": "retry"}, "on_failure = 'retry': must be 'resubmit' or 'abort'"),
    ],
)
def test_a_change_that_cannot_be_is_refused_with_the_nearest_that_can(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        with_changes(scenario(), change)


def test_a_change_that_reaches_no_pool_is_refused_with_the_path_that_would() -> None:
    with pytest.raises(InputError, match=r"every pool has its own replicas; set pools\.prefill\.replicas"):
        with_changes(scenario(pools=POOLS), {"replicas": 2})


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("engine.block_size", "xinf", "'xinf' multiplies by no number"),
        ("engine.block_size", "xnan", "'xnan' multiplies by no number"),
        ("faults.²", 1, "there is no element '²'; there are 0, from 0"),
        ("topology.own_graph", "abc", "must be a directed networkx graph"),
    ],
)
def test_a_change_that_is_no_number_or_no_graph_is_refused(path: str, value: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        with_changes(scenario(), {path: value})


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("pools.prefill.replicas", "the scenario has no pools; set replicas"),
        ("pools.decode.engine.max_num_seqs", r"the scenario has no pools; set engine\.max_num_seqs"),
        ("pools.decode.role", "the scenario has no pools, and a change makes none"),
        ("pools", "pools = 2: must be a mapping"),
    ],
)
def test_a_pool_is_not_changed_where_there_is_none(path: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        with_changes(scenario(), {path: 2})
