"""`sim sweep`, `sim compare`, `sim capacity` from files to tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sim.inputs.errors import InputError
from tests.cli.conftest import Sim

GOOD = """
topology: a100-x4
model: llama-3-8b
workload: {arrivals: {kind: poisson, rate_per_s: 4}, prompt_tokens: 50, output_tokens: 5, requests: 10}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return path


def test_a_sweep_prints_every_point_and_the_reason_of_those_that_cannot_be(sim: Sim, scenario: Path) -> None:
    over = ("--over", "engine.tensor_parallel_size=1,2,3")
    status, out, err = sim("sweep", scenario, *over, "--seeds", 2)
    assert (status, err) == (0, "")
    assert out.count("done") == 4
    assert out.count("infeasible") == 2
    assert "does not divide" in out
    status, out, _ = sim("sweep", scenario, *over, "--format", "json")
    assert [row["completed"] for row in json.loads(out)] == [10, 10, None]


def test_the_whole_table_goes_into_a_file(sim: Sim, scenario: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    status, _, err = sim("sweep", scenario, "--over", "engine.max_num_seqs=1,4", "--out", table)
    assert status == 0
    assert str(table) in err
    assert table.read_text().splitlines()[0].startswith("engine.max_num_seqs,seed,status,reason")


def test_scenarios_are_compared_with_the_first(sim: Sim, scenario: Path, tmp_path: Path) -> None:
    slower = tmp_path / "slower.yaml"
    slower.write_text(GOOD + "engine: {frontend_s: 5 ms}\n")
    status, out, err = sim("compare", scenario, slower, "--seeds", 3, "--metric", "mean_ttft_ms")
    assert (status, err) == (0, "")
    row = next(line for line in out.splitlines() if "slower" in line)
    assert "True" in row
    assert "mean_ttft_ms: good < slower, stable (3 of 3 seeds agree)" in out
    assert "why: slower: host +5 ms a request" in out


def test_a_capacity_is_a_rate_and_what_limits_it(sim: Sim, scenario: Path) -> None:
    words = ("capacity", scenario, "--slo", "p99_ttft_ms=60", "--tolerance", 0.3)
    status, out, err = sim(*words)
    assert status == 0
    assert "p99_ttft_ms of 10 requests is decided by 0.1 of them" in err
    assert "requests/s" in out
    assert "limited by: p99_ttft_ms" in out
    status, out, _ = sim(*words, "--format", "json")
    assert json.loads(out)["rate_per_s"] > 0.0


@pytest.mark.parametrize(
    "words",
    [
        ("sweep", "--over", "engine.max_num_seqs"),
        ("sweep", "--over", "engine.max_num_seqs=[1, 2"),
        ("sweep", "--over", "engine.max_num_seqs=1,,2"),
        ("sweep", "--over", "engine.max_num_seqs=1", "--metric", "mean_tttf_ms"),
        ("compare", "--seeds", "2"),
        ("capacity", "--slo", "p99_ttft_ms"),
        ("capacity", "--slo", "p99_tttf_ms=3"),
    ],
)
def test_wrong_words_end_with_status_2_and_a_sentence(
    words: tuple[str, ...], sim: Sim, scenario: Path
) -> None:
    status, out, err = sim(words[0], scenario, *words[1:])
    assert (status, out) == (2, "")
    assert err.startswith("sim: ")


def test_a_table_is_refused_before_the_runs_where_it_exists_or_cannot_be_made(
    sim: Sim, scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sim as package

    monkeypatch.setattr(package, "sweep", lambda *_: pytest.fail("runs began"))
    (tmp_path / "table.csv").write_text("of a night")
    for out, hint in (
        ("table.csv", "exists"),
        ("good.yaml/x.csv", "cannot be written"),
        ("x.txt", ".parquet"),
    ):
        words = ("sweep", scenario, "--over", "engine.max_num_seqs=1", "--out", tmp_path / out)
        status, printed, err = sim(*words)
        assert (status, printed, err.count("\n")) == (2, "", 1)
        assert hint in err
    assert (tmp_path / "table.csv").read_text() == "of a night"


@pytest.mark.slow
def test_an_interrupted_table_goes_on_to_the_same_bytes(
    sim: Sim, scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sim.studies import points

    def sweep(out: Path, *more: object) -> tuple[int, str, str]:
        return sim("sweep", scenario, "--over", "engine.max_num_seqs=1,4", "--seeds", 2, "--out", out, *more)

    whole, part = tmp_path / "whole.csv", tmp_path / "new" / "part.csv"
    assert sweep(whole)[0] == 0
    first_done = points.first_done

    def interrupted(running: dict[Any, Any]) -> Any:
        if part.with_name("part.csv.rows").read_text().count("\n") > 2:
            raise KeyboardInterrupt
        return first_done(running)

    monkeypatch.setattr(points, "first_done", interrupted)
    status, out, err = sweep(part)
    assert status == 130
    assert out.count("not run") >= 1
    assert "the same command goes on" in err
    assert "not run" in part.read_text()
    monkeypatch.setattr(points, "first_done", first_done)
    status, _, err = sim("sweep", scenario, "--over", "replicas=1", "--set", "replicas=2", "--out", part)
    assert (status, "rows of another study" in err) == (2, True)
    status, _, err = sweep(part)
    assert (status, "going on with" in err) == (0, True)
    assert part.read_bytes() == whole.read_bytes()
    assert [path.name for path in part.parent.iterdir()] == ["part.csv"]
    assert sweep(part)[0] == 2
    assert sweep(part, "--force")[0] == 0


def test_a_line_that_a_kill_has_cut_off_is_dropped(scenario: Path, tmp_path: Path) -> None:
    import sim as package
    from sim.studies.kept import kept

    described, out = package.load_scenario(scenario), tmp_path / "table.csv"
    with kept(out) as keep:
        package.sweep(described, {"replicas": [1, 2]}, progress=False, keep=keep)
    rows = tmp_path / "table.csv.rows"
    rows.write_text(rows.read_text()[:-30])
    with kept(out) as keep:
        found = package.sweep(described, {"replicas": [1, 2]}, progress=False, keep=keep)
        assert [row.status for row in found.rows] == ["done", "done"]
    assert [line[-1] for line in rows.read_text().splitlines()] == ["}"] * 3
    rows.write_text(rows.read_text().replace('"completed": ', '"completed": 1', 1))
    with pytest.raises(InputError, match=r"csv\.rows:2: is not as a study has written it"), kept(out) as keep:
        package.sweep(described, {"replicas": [1, 2]}, progress=False, keep=keep)


@pytest.mark.slow
def test_a_search_goes_on_with_the_rates_that_were_tried(sim: Sim, scenario: Path, tmp_path: Path) -> None:
    from sim.studies.kept import Kept

    words = ("capacity", scenario, "--slo", "p99_ttft_ms=60", "--tolerance", 0.3, "--out", tmp_path / "c.csv")
    rows = tmp_path / "c.csv.rows"
    unlinked: list[str] = []

    def keeps(self: Kept, *_: object, **__: object) -> None:
        unlinked.append(rows.read_text())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Kept, "save", keeps)
        first = sim(*words)[1]
        patch.setattr("sim.studies.points.row_of", lambda *_: pytest.fail("ran again"))
        assert sim(*words)[1] == first
    assert unlinked[0] == unlinked[1]


def test_a_study_in_which_nothing_ran_ends_with_the_status_of_its_reason(sim: Sim, scenario: Path) -> None:
    for over, status in (("engine.tensor_parallel_size=3,5", 3), ("workload.arrivals.rate_per_s=-1,-2", 2)):
        found, out, err = sim("sweep", scenario, "--over", over)
        assert found == status
        assert out.count("\n") > 2
        assert err.startswith("sim: none of 2 points has numbers: ")


def test_a_key_that_is_given_twice_is_refused_with_both_lists_as_one(sim: Sim, scenario: Path) -> None:
    over = ("--over", "engine.max_num_seqs=1,2", "--over", "engine.max_num_seqs=2,4")
    status, out, err = sim("sweep", scenario, *over)
    assert (status, out) == (2, "")
    assert "--over engine.max_num_seqs is given twice; write --over engine.max_num_seqs=1,2,4" in err


def test_a_table_has_the_same_bytes_whatever_the_number_of_processes(
    sim: Sim, scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = []
    for processes in (1, 3):
        monkeypatch.setattr("sim.studies.points.os.cpu_count", lambda count=processes: count)
        table = tmp_path / f"{processes}.csv"
        words = ("sweep", scenario, "--over", "engine.max_num_seqs=1,2,4", "--out", table)
        assert sim(*words)[0] == 0
        tables.append(table.read_bytes())
    assert tables[0] == tables[1]


def test_a_store_goes_on_only_when_it_is_told_to(sim: Sim, scenario: Path, tmp_path: Path) -> None:
    store, table = tmp_path / "study.sqlite", tmp_path / "table.csv"
    words = ("sweep", scenario, "--over", "engine.max_num_seqs=1,4", "--store", store)
    status, out, _ = sim(*words)
    assert status == 0
    assert out.count("done") == 2
    status, _, err = sim(*words)
    assert (status, "add --resume" in err) == (2, True)
    status, again, err = sim(*words, "--resume", "--out", table)
    assert (status, again) == (0, out)
    assert f"2 runs were in {store}" in err
    assert table.is_file()
    status, _, err = sim("sweep", scenario, "--over", "replicas=1", "--resume")
    assert (status, "--store FILE" in err) == (2, True)


@pytest.mark.slow
def test_values_that_go_together_are_written_with_colons(sim: Sim, scenario: Path) -> None:
    keys = "engine.tensor_parallel_size,replicas"
    for written in (f"{keys}=1:4,2:2", f"{keys}=[[1, 4], [2, 2]]"):
        status, out, err = sim("sweep", scenario, "--over", written, "--format", "json")
        assert (status, err) == (0, "")
        rows = [(row["engine.tensor_parallel_size"], row["replicas"]) for row in json.loads(out)]
        assert rows == [(1, 4), (2, 2)]
    for written, said in ((f"{keys}=1:4,2", "2 must be 2 values that go together, as in"),):
        status, _, err = sim("sweep", scenario, "--over", written)
        assert (status, said in err) == (2, True)
    status, _, err = sim("sweep", scenario, "--over", f"{keys}=1:4", "--over", f"{keys}=2:2")
    assert (status, f"write --over {keys}=1:4,2:2" in err) == (2, True)


def test_several_seeds_end_with_a_table_of_means(sim: Sim, scenario: Path) -> None:
    over = ("--over", "engine.max_num_seqs=1,4", "--metric", "mean_ttft_ms")
    status, out, _ = sim("sweep", scenario, *over, "--seeds", 3)
    assert status == 0
    assert "mean of mean_ttft_ms" in out
    assert out.count(" ± ") == 2


@pytest.mark.slow
def test_a_sensitivity_is_a_table_with_the_strongest_first(sim: Sim, scenario: Path, tmp_path: Path) -> None:
    words = ("sensitivity", scenario, "--metric", "mean_ttft_ms", "--seeds", 2, "--keys", "topology.gpus.*")
    status, out, err = sim(*words, "--out", tmp_path / "table.csv")
    assert status == 0
    assert out.startswith("mean_ttft_ms is ")
    assert "hbm_bytes_per_s" in out
    assert "no effect: topology.gpus" in err
    status, out, _ = sim(*words, "--format", "json")
    sizes = [abs(one["elasticity"]) for one in json.loads(out)["effects"]]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 0.1


def test_a_swept_key_that_nothing_reads_is_noted_once_and_so_is_one_whose_values_are_all_alike(
    sim: Sim, scenario: Path
) -> None:
    over = ("--over", "engine.dispatch_dtype=fp8,bf16", "--over", "engine.max_num_seqs=100,200")
    status, out, err = sim("sweep", scenario, *over)
    assert (status, out.count("done")) == (0, 4)
    unread, alike = err.splitlines()
    assert unread == "note: engine.dispatch_dtype has no effect here: llama-3-8b has no experts"
    assert alike.startswith(
        "note: engine.max_num_seqs: all of its values give the same numbers (it did not bind: 100, peak "
    )


def test_a_comparison_notes_the_keys_of_each_scenario_that_nothing_reads(
    sim: Sim, scenario: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(GOOD + "router: random\n")
    status, _, err = sim("compare", scenario, other, "--seeds", 2)
    assert status == 0
    assert err == "note: other: router has no effect here: there is one replica to choose from\n"


@pytest.mark.slow
def test_a_recommendation_is_a_table_a_runner_up_and_files(
    sim: Sim, scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sim.studies import recommend

    layouts = recommend.layouts
    monkeypatch.setattr(recommend, "layouts", lambda *given: layouts(*given)[:2])
    words = ("recommend", scenario, "--slo", "p90_ttft_ms=60", "--over", "engine.max_num_seqs=8")
    status, out, err = sim(*words, "--write", tmp_path / "out", "--set", "workload.requests=4")
    assert status == 0
    assert "runner-up: " in out
    assert "tokens_per_s_per_gpu" in out
    assert "wrote 2 scenarios" in err
    for path in (tmp_path / "out").iterdir():
        assert sim("run", path)[0] == 0
    status, _, err = sim("recommend", scenario)
    assert (status, "there are no objectives" in err) == (2, True)


def test_a_ray_cluster_without_ray_is_refused_with_what_to_install(
    sim: Sim, scenario: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    words = ("sweep", scenario, "--over", "replicas=1", "--scheduler", "ray://host:10001")
    status, out, err = sim(*words)
    assert (status, out) == (2, "")
    assert "needs ray: pip install 'ray[client]'" in err


def test_a_study_notes_once_what_was_not_measured(sim: Sim, scenario: Path) -> None:
    bare = ("--set", "topology.gpus.a100-80gb-sxm.sms=54")
    _, _, err = sim("sweep", scenario, "--over", "engine.max_num_seqs=1,4", *bare)
    assert err.count("note: not measured on a100-80gb-sxm: kernels of a100-80gb-sxm as shipped stand in") == 1
    other = scenario.with_name("other.yaml")
    other.write_text(GOOD)
    _, _, err = sim("compare", scenario, other, "--seeds", 2, *bare)
    assert err.count("note: not measured on a100-80gb-sxm") == 1


def test_a_metric_is_looked_for_before_the_runs(
    sim: Sim, scenario: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sim as package

    for study in ("sweep", "compare"):
        monkeypatch.setattr(package, study, lambda *_, **__: pytest.fail("runs began"))
    for words in (("sweep", scenario, "--over", "seed=1"), ("compare", scenario, scenario)):
        status, _, err = sim(*words, "--metric", "mean_tttf_ms")
        assert (status, err) == (
            2, "sim: --metric mean_tttf_ms: there is no such metric; did you mean 'mean_ttft_ms'?\n"
        )  # fmt: skip


def test_a_metric_that_no_run_has_is_noted(sim: Sim, scenario: Path) -> None:
    words = ("sweep", scenario, "--over", "engine.max_num_seqs=1", "--metric", "kv_hit_rate_host")
    status, out, err = sim(*words, "--metric", "completed")
    assert (status, err) == (0, "--metric kv_hit_rate_host: no run has it\n")
    assert "completed" in out
