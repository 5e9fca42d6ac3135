from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.inputs.parts import Part, Wire, members
from sim.inputs.server_graph import wire_pairs


def parts(**counts: int) -> dict[str, Part]:
    gpu = {"kind": "gpu", "model": "g"}
    return {
        name: Part.model_validate({**(gpu if name == "gpu" else {"kind": "host"}), "count": count})
        for name, count in counts.items()
    }


def wire(source: str, to: str, pattern: str, **more: Any) -> Wire:
    return Wire.model_validate({"from": source, "to": to, "pattern": pattern, "link": "wire", **more})


def test_all_joins_each_to_each() -> None:
    pairs = list(wire_pairs(wire("gpu", "host", "all"), parts(gpu=3, host=2)))
    assert pairs == [(g, h, 1) for g in range(3) for h in range(2)]


def test_all_within_one_part_joins_each_pair_once() -> None:
    pairs = list(wire_pairs(wire("host", "host", "all"), parts(host=4)))
    assert pairs == [(0, 1, 1), (0, 2, 1), (0, 3, 1), (1, 2, 1), (1, 3, 1), (2, 3, 1)]


def test_one_to_one_joins_equals() -> None:
    assert list(wire_pairs(wire("gpu", "host", "one_to_one"), parts(gpu=2, host=2))) == [(0, 0, 1), (1, 1, 1)]


def test_blocks_put_consecutive_ones_on_one() -> None:
    pairs = list(wire_pairs(wire("gpu", "host", "blocks", of=4), parts(gpu=8, host=2)))
    assert [to for _, to, _ in pairs] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_modulo_deals_round() -> None:
    pairs = list(wire_pairs(wire("gpu", "host", "modulo"), parts(gpu=5, host=2)))
    assert [to for _, to, _ in pairs] == [0, 1, 0, 1, 0]


def test_links_may_differ_by_the_member_of_to() -> None:
    pairs = list(wire_pairs(wire("gpu", "host", "all", links=[5, 4, 4, 5]), parts(gpu=1, host=4)))
    assert [links for _, _, links in pairs] == [5, 4, 4, 5]


def test_a_selection_names_some_members() -> None:
    assert list(members("host", 3)) == [0, 1, 2]
    assert list(members("host[2]", 3)) == [2]
    assert list(members("host[1:]", 3)) == [1, 2]
    assert list(members("host[0::2]", 3)) == [0, 2]
    pairs = list(wire_pairs(wire("host[0::2]", "host[1::2]", "one_to_one"), parts(host=4)))
    assert pairs == [(0, 1, 1), (2, 3, 1)]


@pytest.mark.parametrize(
    ("one", "counts", "says"),
    [
        (wire("gpu", "host", "one_to_one"), {"gpu": 8, "host": 2}, "gpu has 8, host has 2"),
        (wire("gpu", "host", "blocks", of=3), {"gpu": 8, "host": 2}, "'of: 4' fits"),
        (wire("gpu", "host[3]", "all"), {"gpu": 8, "host": 2}, "indices run from 0 to 1"),
        (wire("gpu", "host[2:2]", "all"), {"gpu": 8, "host": 4}, "outside"),
        (
            wire("gpu", "host", "all", links=[1, 2, 3]),
            {"gpu": 8, "host": 2},
            "links has 3 numbers for 2 members",
        ),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(one: Wire, counts: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        list(wire_pairs(one, parts(**counts)))


@pytest.mark.parametrize(
    "wrong", [{"of": 4}, {"pattern": "blocks"}, {"pattern": "ring"}, {"to": "host[a]"}, {"links": 0}]
)
def test_a_wire_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Wire.model_validate({"from": "gpu", "to": "host", "pattern": "all", "link": "wire", **wrong})


@given(st.integers(1, 30), st.integers(1, 8), st.sampled_from(["all", "one_to_one", "blocks", "modulo"]))
def test_every_member_of_from_is_wired_and_no_pair_is_wired_twice(hosts: int, of: int, pattern: str) -> None:
    gpus = hosts if pattern == "one_to_one" else hosts * of
    one = wire("gpu", "host", pattern, **({"of": of} if pattern == "blocks" else {}))
    pairs = [(source, to) for source, to, _ in wire_pairs(one, parts(gpu=gpus, host=hosts))]
    assert {source for source, _ in pairs} == set(range(gpus))
    assert {to for _, to in pairs} == set(range(hosts))
    assert len(pairs) == len(set(pairs)) == (gpus * hosts if pattern == "all" else gpus)
