from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from sim.inputs.errors import InfeasibleError, InputError, Problem, UnfinishedError
from sim.inputs.quantities import BytesPerSecond, LatencySeconds
from sim.reading.problems import did_you_mean, unknown_name, validated
from sim.reading.yaml_lines import parse_yaml


class Link(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    bytes_per_s: BytesPerSecond
    latency_s: LatencySeconds = 0.0
    kind: Literal["copper", "fibre"] = "copper"
    lanes: int = Field(default=1, ge=1, le=64)


class Poisson(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["poisson"]
    rate: float


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["closed_loop"]
    users: int


class Box(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    nodes: int = 1
    on: bool = True
    links: dict[str, Link] = {}
    ports: list[Link] = []
    traffic: Annotated[Poisson | Closed, Field(discriminator="kind")] | None = None


def problems(text: str) -> list[str]:
    document = parse_yaml(text, "box.yaml")
    with pytest.raises(InputError) as refusal:
        validated(Box, document.data, document)
    assert all(isinstance(problem, Problem) for problem in refusal.value.problems)
    return str(refusal.value).splitlines()


def test_an_unknown_key_is_named_with_its_line_and_its_nearest_match() -> None:
    assert problems("name: a\nnodez: 3\n") == ["box.yaml:2: nodez: is not a known key; did you mean 'nodes'?"]
    assert problems("name: a\nlinks:\n  x:\n    bytes_per_s: 1 GB/s\n    latency: 1 us\n") == [
        "box.yaml:5: links.x.latency: is not a known key; did you mean 'latency_s'?"
    ]
    assert problems("name: a\nports: [{bytes_per_s: 1 GB/s, lain: 3}]\n") == [
        "box.yaml:2: ports[0].lain: is not a known key; did you mean 'lanes'?"
    ]


def test_a_key_that_is_like_no_other_is_answered_with_all_that_there_are() -> None:
    assert problems("name: a\nzzz: 3\n") == [
        "box.yaml:2: zzz: is not a known key; known are name, nodes, on, links, ports, traffic"
    ]


def test_all_problems_of_a_file_come_at_once() -> None:
    found = problems(
        "nodes: two\non: maybe\nlinks:\n  a: {bytes_per_s: 450 GB}\n"
        "  b: {bytes_per_s: -1, lanes: 65}\n  c: 7\nports: 3\n"
    )
    assert [line.partition(": ")[2] for line in found] == [
        "name: is missing; this key is needed",
        "nodes = 'two': must be a whole number, as in 8",
        "on = 'maybe': must be true or false",
        (
            "links.a.bytes_per_s: '450 GB' is not a bandwidth: 'GB' is of another kind; "
            "write a bandwidth in bytes/s or with a unit, as in '450 GB/s'"
        ),
        "links.b.bytes_per_s: -1 is negative; a bandwidth is zero or more, as in '450 GB/s'",
        "links.b.lanes = 65: must be at most 64",
        "links.c = 7: must be a mapping, with keys and values below it",
        "ports = 3: must be a list, as in [1, 2]",
    ]
    assert [line.split(":")[1] for line in found] == list("11245567")


def test_a_choice_that_is_not_one_is_answered_with_the_choices() -> None:
    assert problems("name: a\nlinks: {x: {bytes_per_s: 1 GB/s, kind: fiber}}\n") == [
        ("box.yaml:2: links.x.kind = 'fiber': must be 'copper' or 'fibre'; did you mean 'fibre'?")
    ]
    (found,) = problems("name: a\ntraffic: {kind: poison, rate: 3}\n")
    assert (
        "traffic: kind = 'poison': must be one of 'poisson', 'closed_loop'; did you mean 'poisson'?" in found
    )
    assert problems("name: a\ntraffic: {rate: 3}\n") == [
        "box.yaml:2: traffic: has no kind; say which with 'kind:'"
    ]


def test_the_branch_that_a_kind_chose_is_no_part_of_the_key() -> None:
    (found,) = problems("name: a\ntraffic: {kind: poisson, rat: 3, rate: 1}\n")
    assert found == "box.yaml:2: traffic.rat: is not a known key; did you mean 'rate'?"


def test_a_value_that_goes_on_and_on_is_cut() -> None:
    (found,) = problems(f"name: a\nnodes: {'x' * 500}\n")
    assert len(found) < 150


def test_a_name_is_matched_whatever_the_case_and_the_sign() -> None:
    assert did_you_mean("ND_H100_V5", ["nd-h100-v5", "dgx-a100"]) == "; did you mean 'nd-h100-v5'?"
    assert did_you_mean("gb200", ["hgx-b200", "gb200-nvl72"]) == "; did you mean 'gb200-nvl72'?"
    assert did_you_mean("qqq", ["nd-h100-v5"]) == ""


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    said = unknown_name("gpu", "h100", ["a100", "h100-sxm"])
    assert said == "there is no gpu named 'h100'; known are a100, h100-sxm; did you mean 'h100-sxm'?"


def test_each_refusal_has_its_exit_status() -> None:
    assert (InputError.exit_status, InfeasibleError.exit_status, UnfinishedError.exit_status) == (2, 3, 4)
    assert str(InputError(["a", Problem("b", "f.yaml", 3, "k")])) == "a\nf.yaml:3: k: b"
    assert str(InfeasibleError("too big", "half of it fits")) == "too big; half of it fits"
    assert (
        str(UnfinishedError("ran out of time", ["7 waits for blocks"]))
        == "ran out of time\n7 waits for blocks"
    )
