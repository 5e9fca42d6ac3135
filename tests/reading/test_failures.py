"""Shipped failure rates have their sources and add up; lists of outages are read with their lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.inputs.errors import InputError
from sim.inputs.outages import KINDS
from sim.reading.failure_rates import failure_rates, repair_times, weibull_shape
from sim.reading.outage_lists import recorded_outages


def test_every_set_of_rates_has_a_source_a_tag_and_kinds_that_exist() -> None:
    for name, rates in failure_rates().items():
        assert rates.source, name
        assert rates.tag in ("measured", "assumed"), name
        assert {one.fails for one in rates.classes} <= set(KINDS), name
        assert {one.repair for one in rates.classes} <= set(repair_times()), name
    assert weibull_shape() < 1.0  # the hazard falls


def test_rates_are_those_of_their_papers() -> None:
    rates = failure_rates()
    assert sum(one.events for one in rates["llama-3"].classes) == 419
    assert rates["llama-3"].hours_between == pytest.approx(16_384 * 54 * 24 / 419)  # 50,700 GPU-hours
    assert rates["b200"].hours_between == pytest.approx(66_528)
    # A job on 128 nodes: 28.8 hours between failures of any of them.
    assert rates["meta-rsc-1"].hours_between / 128 == pytest.approx(28.8, rel=0.01)
    assert rates["crusoe"].per == "shares"
    assert sum(one.events for one in rates["crusoe"].classes) == pytest.approx(100.0)
    assert rates["delta"].classes == ()


def test_a_list_is_read_as_csv_and_as_json_lines(tmp_path: Path) -> None:
    csv, lines = tmp_path / "a.csv", tmp_path / "a.jsonl"
    csv.write_text("kind,name,at_s,until_s,warned_s\ngpu,node0.gpu1,3,,\n\nhost,node0,5 min,400,250\n")
    lines.write_text(
        '{"kind": "gpu", "name": "node0.gpu1", "at_s": 3}\n\n'
        '{"kind": "host", "name": "node0", "at_s": 300, "until_s": 400, "warned_s": 250}\n'
    )
    assert [one for _, one in recorded_outages(csv)] == [one for _, one in recorded_outages(lines)]
    assert [line for line, _ in recorded_outages(lines)] == [1, 3]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("kind,nam,at_s\n", 1, "has no column name; .*did you mean 'nam'"),
        ("kind,name,at_s,capacty\nnic,node0.nic0,3,0.5\n", 2, "'capacty' is not a column.*'capacity'"),
        ("kind,name,at_s\ngpu,node0.gpu1,3\ngpus,node0.gpu1,3\n", 3, "kind = 'gpus'"),
        ("kind,name,at_s\ngpu,node0.gpu1,x\n", 2, "at_s = 'x'.*not a quantity"),
        ("kind,name,at_s\ngpu,node0.gpu1,1,2\n", 2, "more cells than the 3 columns"),
        ("kind,name,at_s,until_s\ngpu,node0.gpu1,5,4\n", 2, "must be above at_s = 5"),
    ],
)
def test_what_is_wrong_with_a_list_is_told_with_its_line(
    tmp_path: Path, text: str, line: int, what: str
) -> None:
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=what) as found:
        recorded_outages(path)
    assert found.value.problems[0].line == line


def test_json_that_is_none_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    for text, what in (("{", "is no JSON"), ("[1]", "is no object")):
        path.write_text(f"\n{text}\n")
        with pytest.raises(InputError, match=f"list.jsonl:2: {what}"):
            recorded_outages(path)
