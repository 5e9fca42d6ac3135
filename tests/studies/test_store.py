"""Stores: a row stays once it has come, runs once among processes, and holds for one version and scenario."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

import sim
from sim.inputs.errors import InputError
from sim.studies import points as points_module
from sim.studies import store as store_module
from sim.studies.points import Point, run_points
from sim.studies.store import stored
from tests.studies.scenarios import scenario

GRID = {"engine.max_num_seqs": [1, 4], "engine.tensor_parallel_size": [1, 3]}


def never_run(*_: object) -> None:
    pytest.fail("ran again")


def test_a_study_goes_on_with_what_is_stored_also_with_what_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "study.sqlite"
    with ThreadPoolExecutor(1) as executor:
        first = sim.sweep(scenario(), GRID, seeds=range(2), executor=executor, store=path)
        monkeypatch.setattr(points_module, "row_of", never_run)
        again = sim.sweep(scenario(), GRID, seeds=range(2), executor=executor, store=path)
    assert again.rows == first.rows
    assert [row.status for row in again.rows] == ["done", "done", "infeasible", "infeasible"] * 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["study.sqlite"]
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE rows SET summary = '{}'")
        database.commit()
    with pytest.raises(InputError, match="not as a study has written it"):
        sim.sweep(scenario(), GRID, seeds=range(2), store=path)


def test_a_store_of_an_older_version_is_known_by_its_code(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite"
    with stored(path):
        pass
    with closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE rows DROP COLUMN digest")
        values = "'[0, [], 0]', 'x', 'y', '0.1', 'z', 'done', '', '{}', '{}', 0.1, '{}'"
        database.execute(f"INSERT INTO rows VALUES ({values})")
        database.commit()
    with pytest.raises(InputError, match="1 rows of other code"):
        sim.sweep(scenario(), {}, store=path)
    with ThreadPoolExecutor(1) as executor:
        found = sim.sweep(scenario(), {}, executor=executor, store=path, recompute=True)
    assert found.rows[0].status == "done"


def test_a_study_that_grows_runs_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite"
    with ThreadPoolExecutor(1) as executor:
        sim.sweep(scenario(), {"replicas": [1]}, executor=executor, store=path)
        with stored(path) as rows:
            points = [Point(0, (("replicas", replicas),), 0) for replicas in (1, 2)]
            run_points([scenario()], points, executor, keep=rows)
            assert rows.taken_up == 1


@pytest.mark.parametrize(
    "study",
    [
        lambda **where: sim.sweep(scenario(), {}, **where),
        lambda **where: sim.sensitivity(scenario(), "mean_ttft_ms", **where),
        lambda **where: sim.recommend(scenario(), {"p99_ttft_ms": 500.0}, candidates=[], **where),
    ],
)
def test_rows_that_are_kept_in_one_place_are_not_stored_in_another(
    study: Callable[..., object], tmp_path: Path
) -> None:
    with stored(tmp_path / "one.sqlite") as rows, pytest.raises(InputError, match="two places"):
        study(keep=rows, store=tmp_path / "other.sqlite")
    assert not (tmp_path / "other.sqlite").exists()


def test_another_version_is_refused_or_run_again_by_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "study.sqlite"
    with ThreadPoolExecutor(1) as executor:
        sim.sweep(scenario(), {"replicas": [1, 2]}, executor=executor, store=path)
        monkeypatch.setattr(store_module, "code_digest", lambda: "of another version")
        with pytest.raises(
            InputError, match=f"2 rows of other code .fabricsim {sim.__version__}.; add --recompute"
        ):
            sim.sweep(scenario(), {"replicas": [1, 2]}, executor=executor, store=path)
        sim.sweep(scenario(), {"replicas": [1]}, executor=executor, store=path, recompute=True)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT code FROM rows").fetchall() == [("of another version",)]


def test_a_scenario_that_has_changed_is_refused_or_run_again_by_choice(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite"
    changed = scenario(engine={"frontend_s": 0.001})
    with ThreadPoolExecutor(1) as executor:
        before = sim.sweep(scenario(), {}, executor=executor, store=path)
        with pytest.raises(InputError, match="1 rows of a scenario that has changed since"):
            sim.sweep(changed, {}, executor=executor, store=path)
        after = sim.sweep(changed, {}, executor=executor, store=path, recompute=True)
    assert after.rows[0].summary["mean_ttft_ms"] > before.rows[0].summary["mean_ttft_ms"]


def test_scenarios_that_are_drawn_are_known_by_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, one, two = tmp_path / "study.sqlite", scenario(), scenario(replicas=2)
    with ThreadPoolExecutor(1) as executor:
        first = sim.sweep(iter([one, two]), executor=executor, store=path)
        monkeypatch.setattr(points_module, "row_of", never_run)
        other_way_round = sim.sweep(iter([two, one]), executor=executor, store=path)
    assert [row.summary for row in other_way_round.rows] == [row.summary for row in reversed(first.rows)]


def test_a_point_is_claimed_by_one_process_until_that_gives_it_back_or_ends(tmp_path: Path) -> None:
    path, point = tmp_path / "study.sqlite", Point(0, (), 0)
    with stored(path) as second:
        second.begin([scenario()])
        with stored(path) as first:
            first.begin([scenario()])
            assert first.claim(point)
            assert not second.claim(point)
            assert second.row(point) is None
        assert second.claim(point)
        second._database.execute("UPDATE rows SET owner = 'a process that was killed'")
        assert second.claim(point)


def test_points_of_another_process_are_waited_for_and_taken_up(tmp_path: Path) -> None:
    path, point = tmp_path / "study.sqlite", Point(0, (), 0)
    row = points_module.row_of(scenario(), point)
    with stored(path) as first, ThreadPoolExecutor(2) as executor:
        first.begin([scenario()])
        assert first.claim(point)
        looks: list[float] = []

        def looks_again(seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 2:
                first.add(row)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(points_module.time, "sleep", looks_again)
            patch.setattr(points_module, "run_point", never_run)
            found = sim.sweep(scenario(), {}, executor=executor, store=path)
    assert found.rows[0].summary == row.summary
    assert len(looks) == 2


def test_a_file_that_is_no_store_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    text, other = tmp_path / "table.csv", tmp_path / "other.sqlite"
    text.write_text("seed,status\n" * 100)
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE mine (a)")
    for path, said in ((text, "is no store of runs"), (other, "another program"), (tmp_path, "is a folder")):
        with pytest.raises(InputError, match=said):
            sim.sweep(scenario(), {}, store=path)
    assert text.read_text() == "seed,status\n" * 100
    with stored(tmp_path / "rows.sqlite"):
        pass
    with pytest.raises(InputError, match="add --resume"), stored(tmp_path / "rows.sqlite", resume=False):
        pass


def test_a_full_disk_costs_the_store_and_not_the_rows(tmp_path: Path) -> None:
    with stored(tmp_path / "study.sqlite") as rows, ThreadPoolExecutor(1) as executor:
        rows.begin([scenario()])
        claim, rows.claim = (
            rows.claim,
            lambda point: (
                claim(point)
                and bool(  # type: ignore[method-assign]
                    rows._database.execute("PRAGMA query_only = ON")
                )
            ),
        )
        found = run_points([scenario()], [Point(0, (), 0)], executor, keep=rows)
    assert found[0].status == "done"
    assert "cannot be written" in rows.failure


FILLS = """
import json, sys
import sim
scenario = sim.Scenario.model_validate(json.loads(sys.argv[1]))
grid = {"workload.output_tokens.tokens": list(range(2, 14))}
found = sim.sweep(scenario, grid, store=sys.argv[2], progress=False)
print(json.dumps([row.status for row in found.rows]))
"""
SLOW = {
    "topology": "a100-x4",
    "model": "llama-3-8b",
    "engine": {"scheduler": "one_at_a_time", "service_time": {"token_s": 1e-5}},
    "workload": {
        "arrivals": {"kind": "poisson", "rate_per_s": 1.0},
        "prompt_tokens": 50000,
        "output_tokens": 1,
        "requests": 1500,
    },
}


def rows_of(path: Path) -> dict[str, tuple[str, float]]:
    if not path.exists():
        return {}
    with closing(sqlite3.connect(path, timeout=60.0)) as database:
        try:
            found = database.execute("SELECT point, owner, wall_s FROM rows WHERE status = 'done'").fetchall()
        except sqlite3.OperationalError:
            return {}
    return {point: (owner, wall_s) for point, owner, wall_s in found}


def begun(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FILLS, json.dumps(SLOW), str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_kill_loses_what_is_in_flight_and_nothing_runs_twice_among_two_processes(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite"
    first = begun(path)
    while len(rows_of(path)) < 3:
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    before = rows_of(path)
    assert 3 <= len(before) < 12
    both = [begun(path), begun(path)]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
        assert json.loads(out) == ["done"] * 12
    after = rows_of(path)
    assert {point: after[point] for point in before} == before  # not run again
    assert len(after) == 12
    assert len({owner for owner, _ in after.values()} - {owner for owner, _ in before.values()}) == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["study.sqlite"]
