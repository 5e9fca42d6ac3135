"""Counts of chosen experts, from files."""

from __future__ import annotations

import pytest

from sim.inputs.errors import InputError
from sim.reading.expert_counts import read_expert_counts
from sim.scenario import Scenario, load_scenario

ROWS = "expert,tokens\n0,10\n2,30\n"


def test_rows_and_yaml_say_the_same(tmp_path):
    (tmp_path / "rows.csv").write_text(ROWS)
    (tmp_path / "list.yaml").write_text("counts: [10, 0, 30]\n")
    (tmp_path / "named.yaml").write_text("counts: {2: 30, 0: 10}\n")
    for name in ("rows.csv", "list.yaml", "named.yaml"):
        assert read_expert_counts(tmp_path / name) == (10.0, 0.0, 30.0)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "expert,tokens\n0,many\n", r"a.csv:2: .*'many' must be an expert's number and its count"),
        ("a.csv", "expert,tokens\n0,-1\n", "must be an expert's number and its count"),
        ("a.csv", "who,what\n", "needs the columns expert and tokens"),
        ("a.csv", "expert,tokens\n0,0\n", "no expert was ever chosen"),
        ("a.yaml", "count: [1]\n", "has no counts"),
        ("missing.csv", "", "cannot be read"),
    ],
)
def test_what_is_no_count_is_refused_with_its_place(tmp_path, name, text, said):
    if text:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        read_expert_counts(tmp_path / name)


def test_a_scenario_names_the_file_beside_it_for_all_engines_or_for_those_of_a_pool(tmp_path):
    (tmp_path / "counts.csv").write_text(ROWS)
    (tmp_path / "one.yaml").write_text(
        "topology: hgx-h200\nmodel: mixtral-8x7b\nworkload: single-user\n"
        "engine: {data_parallel_size: 2, enable_expert_parallel: true,\n"
        "         expert_routing: {weights: counts.csv}}\n"
    )
    routing = load_scenario(tmp_path / "one.yaml").engine.expert_routing
    assert (routing.popularity, routing.weights) == ("given", (10.0, 0.0, 30.0))
    in_a_pool = Scenario.model_validate(
        {
            "topology": "hgx-h200", "model": "mixtral-8x7b", "workload": "single-user",
            "pools": {"only": {"engine": {"expert_routing": {"weights": str(tmp_path / "counts.csv")}}}},
        }
    )  # fmt: skip
    assert in_a_pool.pools["only"].engine.expert_routing.weights == (10.0, 0.0, 30.0)
