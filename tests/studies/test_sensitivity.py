"""Sensitivities: slopes that a formula gives, over knobs that are really there."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import sim
from sim.inputs.errors import InputError
from sim.scenario import Scenario
from sim.studies.knobs import Knob, knobs_of
from sim.studies.points import Point, Row
from sim.studies.rate_search import Bracket
from sim.studies.recommend import _Runs
from sim.studies.sensitivity import RESOLUTION, Sensitivity
from tests.studies.scenarios import scenario, server

APART = {"kind": "constant", "rate_per_s": 1.0}


def effects_of(described: Scenario, *args: Any, **named: Any) -> tuple[Sensitivity, dict[str, Any]]:
    with ThreadPoolExecutor(1) as executor:
        found = sim.sensitivity(described, *args, executor=executor, **named)
    return found, {one.key: one for one in found.effects}


def test_a_request_that_never_waits_takes_as_much_longer_as_its_step() -> None:
    described = server(requests=5, arrivals=APART)
    found, by_key = effects_of(described, "mean_e2el_ms", seeds=range(2), keys="engine.*")
    step = by_key["engine.service_time.step_s"]
    assert step.elasticity.mean == pytest.approx(1.0, rel=1e-9)
    assert step.more.mean == pytest.approx(0.1, rel=1e-9)
    assert step.is_clear
    assert found.effects[0] is step
    assert by_key["engine.gpu_memory_utilization"].note == "no effect"
    assert found.base == pytest.approx(100.0)
    assert found.table()["key"].to_list()[0] == "engine.service_time.step_s"


@pytest.mark.slow
def test_a_capacity_follows_the_formula_finer_than_what_it_reports() -> None:
    """Constant arrivals every 1/r s, served in s each: the last of 20 waits 19 (s - 1/r), and the objective
    of 150 ms gives 1/r = s - (0.15 - s) / 19.
    """
    described = server(requests=20, arrivals=APART)
    described = sim.with_changes(described, {"engine.frontend_s": 1e-6})
    keys = ("engine.service_time.*", "engine.frontend_s")
    found, by_key = effects_of(described, "capacity", seeds=[0], keys=keys, slo={"max_ttft_ms": 150.0})

    def rate(step_s: float) -> float:
        return 1.0 / (step_s - (0.15 - step_s) / 19)

    assert found.base == pytest.approx(rate(0.1), rel=RESOLUTION)
    step = by_key["engine.service_time.step_s"]
    assert step.more.mean == pytest.approx(rate(0.11) / rate(0.1) - 1.0, abs=RESOLUTION)
    slope = (math.log(rate(0.11)) - math.log(rate(0.09))) / math.log(0.11 / 0.09)
    assert step.elasticity.mean == pytest.approx(slope, abs=RESOLUTION / 0.1)
    assert "below the resolution of 0.2%" in by_key["engine.frontend_s"].note or (
        by_key["engine.frontend_s"].note == "no effect"
    )


@pytest.mark.slow
def test_a_knob_that_nothing_reads_leaves_a_capacity_as_it_is_to_the_last_digit() -> None:
    """The unchanged service is searched by the steps of the changed ones, and not from afar."""
    described = server(requests=30, arrivals={"kind": "poisson", "rate_per_s": 1.0})
    key, slo = "engine.gpu_memory_utilization", {"p90_ttft_ms": 150.0}
    _, by_key = effects_of(described, "capacity", seeds=range(4), keys=key, slo=slo)
    assert (by_key[key].note, by_key[key].more.mean) == ("no effect", 0.0)


def test_knobs_are_the_numbers_of_the_machine_and_of_the_engine_also_those_left_to_defaults() -> None:
    described = sim.with_changes(scenario(), {"topology": "nd-h100-v5", "nodes": 2})
    keys = {knob.key for knob in knobs_of(described)}
    assert {
        "topology.links.nvlink4.bytes_per_s",
        "topology.links.nvlink4.latency_s",
        "topology.scale_out.0.latency_s",
        "topology.gpus.h100-sxm.hbm_bytes_per_s",
        "topology.gpus.h100-sxm.flops",
        "engine.max_num_batched_tokens",
        "engine.max_num_seqs",
        "engine.gpu_memory_utilization",
    } <= keys
    assert not {key for key in keys if "transports.tcp" in key or "parallel_size" in key or "count" in key}
    tcp = {knob.key for knob in knobs_of(sim.with_changes(described, {"engine.inter_node": "tcp"}))}
    assert "topology.transports.tcp.hop_s" in tcp
    named = knobs_of(described, ("topology.gpus.*.kernels.*", "workload.arrivals.rate_per_s"))
    assert len(named) > 10
    with pytest.raises(InputError, match="fits no number"):
        knobs_of(described, ("topology.lnks.*",))


@pytest.mark.parametrize(
    "key",
    ["topology.scale_out.0.latency_s", "topology.gpus.h100-sxm.flops", "topology.gpus.h100-sxm.hbm_bytes"],
)
def test_every_path_of_a_knob_can_be_set(key: str) -> None:
    described = sim.with_changes(scenario(), {"topology": "nd-h100-v5", "nodes": 2})
    (knob,) = knobs_of(described, (key,))
    found = knob.times(2.0, described)
    assert found is not None
    (again,) = knobs_of(sim.with_changes(described, found[0]), (key,))
    assert [value for _, value in again.paths] == [2.0 * value for _, value in knob.paths]


def test_a_knob_of_one_pool_is_changed_there_and_one_of_all_pools_at_the_scenario() -> None:
    prefill = {"role": "prefill", "engine": {"max_num_batched_tokens": 4096}}
    described = scenario(pools={"p": prefill, "d": {"role": "decode"}})
    keys = {knob.key for knob in knobs_of(described)}
    assert "pools.p.engine.max_num_batched_tokens" in keys
    assert "engine.gpu_memory_utilization" in keys
    assert not {key for key in keys if key.startswith("pools.d.")}


def test_whole_numbers_take_the_nearest_step_and_are_left_out_where_there_is_none() -> None:
    few = Knob("engine.max_num_seqs", 2, ((("engine", "max_num_seqs"), 2),))
    many = Knob("engine.max_num_seqs", 132, ((("engine", "max_num_seqs"), 132),))
    assert few.times(1.1, scenario()) is None
    assert many.times(1.1, scenario()) == ({"engine.max_num_seqs": 145}, 145 / 132)
    described = server(requests=3, arrivals=APART)
    described = sim.with_changes(described, {"engine.max_num_seqs": 2})
    found, _ = effects_of(
        described, "mean_e2el_ms", seeds=[0], keys=["engine.max_num_seqs", "engine.service_time.*"]
    )
    assert "no whole number lies 10% from 2" in found.left_out["engine.max_num_seqs"]


def test_a_side_that_cannot_be_is_said_and_the_other_one_stands() -> None:
    described = sim.with_changes(scenario(), {"engine.gpu_memory_utilization": 1.0})
    found, by_key = effects_of(described, "mean_ttft_ms", seeds=[0], keys="engine.gpu_memory_utilization")
    assert (
        "one side only" in by_key["engine.gpu_memory_utilization"].note
        or by_key["engine.gpu_memory_utilization"].note == "no effect"
    )
    assert not found.left_out


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"metric": "mean_tttf_ms"}, "there is no metric 'mean_tttf_ms'"),
        ({"metric": "capacity"}, "give slo"),
        ({"metric": "mean_ttft_ms", "slo": {"p99_ttft_ms": 1.0}}, "belongs to the metric 'capacity'"),
        ({"metric": "mean_ttft_ms", "step": 0.0}, "step = 0: must be between 0 and 1"),
        ({"metric": "mean_ttft_ms", "seeds": []}, "seeds is empty"),
    ],
)
def test_what_makes_no_sense_is_refused(named: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as refused, ThreadPoolExecutor(1) as executor:
        sim.sensitivity(server(requests=3), keys="engine.service_time.*", executor=executor, **named)
    assert said in str(refused.value)


def test_a_search_that_begins_with_too_little_load_goes_up() -> None:
    """Rates below 20 waste watts, and those above 30 are late."""
    for written, least in ((1.0, 20.0), (1.0, 40.0)):
        search = Bracket(written, 2.0, RESOLUTION)
        while (rate := search.next_rate()) is not None:
            search.tried(least <= rate <= 30.0, lacks_load=rate < least and rate <= 30.0)
        assert search.found == (pytest.approx(30.0, rel=2 * RESOLUTION) if least < 30.0 else None)


def test_a_bracket_ends_within_its_resolution_or_says_that_it_has_no_end() -> None:
    search = Bracket(1.0, 1.05, RESOLUTION)
    tries = 0
    while (rate := search.next_rate()) is not None:
        search.tried(rate <= 7.3)
        tries += 1
    assert search.found == pytest.approx(7.3, rel=RESOLUTION / 2)
    assert tries < 25
    endless = Bracket(1.0, 2.0, RESOLUTION)
    while endless.next_rate() is not None:
        endless.tried(True)
    assert endless.found is None


def test_a_second_metric_of_a_stored_study_runs_nothing(tmp_path: Path) -> None:
    described, path = server(requests=3, arrivals=APART), tmp_path / "study.sqlite"
    first, _ = effects_of(described, "mean_ttft_ms", seeds=[0], keys="engine.service_time.*", store=path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sim.studies.points.row_of", lambda *_: pytest.fail("ran again"))
        second, _ = effects_of(described, "mean_e2el_ms", seeds=[0], keys="engine.service_time.*", store=path)
    assert [row.summary for row in second.rows] == [row.summary for row in first.rows]


def test_an_interruption_before_the_first_number_is_none_of_the_metric(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(_: object, points: list[Point], *__: object) -> list[Row]:
        return [Row(point, "not run", "interrupted") for point in points]

    monkeypatch.setattr("sim.studies.sensitivity.run_points", none)
    monkeypatch.setattr("sim.studies.recommend.run_points", none)
    with pytest.raises(KeyboardInterrupt):
        sim.sensitivity(scenario(), "mean_ttft_ms", seeds=[0], keys="engine.*")
    with pytest.raises(KeyboardInterrupt):  # what comes after the search: the frontier, the runner-up
        _Runs(scenario(), {}, [0], None, False, None).run([Point(0, (), 0)])
