"""What outages did to a run, as its summary, its list and its report say it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import sim
from sim.results.metrics import more_is_better
from sim.results.outages import EngineDown, availability, merged, outage_lines, recovery_s
from sim.views.report_outages import outages as section
from sim.views.report_run import Shown
from tests.laws.key_scenarios import small

STATED = {
    "at": [
        {"kind": "gpu", "name": "node0.gpu0", "at_s": 4, "until_s": 6, "warned_s": 3},
        {"kind": "power_shelf", "name": "node0.power_shelf0", "at_s": 7, "until_s": 8},
    ]
}


def scenario(outages: dict[str, Any] | None = None, **more: Any) -> sim.Scenario:
    return sim.Scenario.model_validate(
        {
            "topology": "gb200-nvl72",
            "model": "llama-3-8b",
            "replicas": 2,
            "engine": {"tensor_parallel_size": 2},
            "router": "round_robin",
            "workload": {
                "arrivals": {"kind": "constant", "rate_per_s": 8},
                "prompt_tokens": 200,
                "output_tokens": 200,
                "duration_s": 10,
                "slo": {"e2el_ms": 2000},
            },
            **({} if outages is None else {"outages": outages}),
            **more,
        }
    )


def short(outages: dict[str, Any]) -> sim.Scenario:
    """A second of traffic to a model of four layers."""
    workload = {
        "arrivals": {"kind": "constant", "rate_per_s": 20},
        "prompt_tokens": 200,
        "output_tokens": 60,
        "duration_s": 1,
    }
    return scenario(outages, model=small("llama-3-8b"), workload=workload)


@pytest.fixture(scope="module")
def result() -> sim.Result:
    return sim.simulate(scenario(STATED))


@pytest.fixture(scope="module")
def numbers(result: sim.Result) -> dict[str, Any]:
    return dict(result.summary()["outages"])


def test_a_run_without_outages_says_nothing_of_them(result: sim.Result) -> None:
    plain = sim.simulate(scenario())
    assert "outages" not in plain.summary()
    assert section(Shown(plain, plain.summary())) is None
    assert plain.outages.is_empty()
    idle = {"kind": "nic", "name": "node0.nic70", "at_s": 1, "until_s": 1.02}  # no byte crosses it
    unfelt = sim.simulate(scenario({"at": [idle]}))
    assert unfelt.summary()["basis"] == plain.summary()["basis"]
    assert unfelt.requests.equals(plain.requests)
    chip = sim.simulate(scenario({"at": [{**idle, "kind": "nvswitch_chip", "name": "node0.nvswitch3"}]}))
    assert chip.summary()["basis"] != plain.summary()["basis"]
    assert "outages" in result.summary()


def test_availability_is_the_share_of_the_gpus_time(result: sim.Result, numbers: dict[str, Any]) -> None:
    """One of two engines is out for two seconds."""
    assert numbers["availability"] == pytest.approx(1.0 - 0.5 * 2.0 / result.end_s)
    assert result.summary()["availability"] == numbers["availability"]  # a column of sweeps
    assert more_is_better("availability")
    assert availability([], 1.0) is None
    both = [EngineDown(1, ((0.0, 2.0), (1.0, 3.0))), EngineDown(3, ((5.0, None),))]
    assert availability(both, 10.0) == pytest.approx(1.0 - (3.0 + 3 * 5.0) / 40.0)
    assert merged([(5.0, 5.0), (12.0, None)], 10.0) == []


def test_the_time_is_divided_into_before_during_and_after(numbers: dict[str, Any]) -> None:
    last_s = 10.0 - 1 / 8  # the last arrival
    seconds = [numbers[phase]["seconds"] for phase in ("before", "during", "after")]
    assert seconds == pytest.approx([4.0, 3.0, last_s - 7.0])
    assert numbers["before"]["request_goodput"] == pytest.approx(8.0, rel=0.2)  # none ends at the begin
    assert numbers["before"]["output_throughput"] == pytest.approx(1600.0, rel=0.2)


def test_the_list_says_what_stopped_which_engine(result: sim.Result, numbers: dict[str, Any]) -> None:
    gpu, shelf = numbers["list"]
    assert (gpu["what"], gpu["engines"], gpu["warned_s"]) == ("gpu node0.gpu0", [0], 3.0)
    assert (shelf["what"], shelf["engines"]) == ("power shelf node0.power_shelf0", [])
    assert (numbers["count"], numbers["warned"], numbers["stopping"]) == (2, 1, 1)
    assert result.outages["engines"].to_list() == [1, 0]
    words = result.key_words.summary()["no_effect"]
    assert any("more power shelves than it needs" in str(why) for why in words.values())


def test_hurt_requests_and_their_tokens_are_counted(result: sim.Result, numbers: dict[str, Any]) -> None:
    hurt = result.requests.filter(result.requests["resubmissions"] > 0)
    assert numbers["hurt_requests"] == hurt.height > 0
    assert (numbers["lost_requests"], numbers["lost_tokens"]) == (0, 0)
    # A prompt again, and what of the answer had come.
    assert 200 * hurt.height <= numbers["recomputed_tokens"] < 400 * hurt.height
    assert numbers["blame"]["hurt"]["recompute"] > 0.0
    assert "recompute" not in numbers["blame"]["others"]
    aborted = sim.simulate(scenario(STATED, on_failure="abort")).summary()["outages"]
    assert aborted["lost_requests"] == aborted["hurt_requests"] == hurt.height
    assert 0 < aborted["lost_tokens"] < 200 * hurt.height


def test_faults_are_reported_as_outages_are(numbers: dict[str, Any]) -> None:
    fault = sim.simulate(scenario(faults=[{"at_s": 4, "until_s": 6, "gpu": "node0.gpu0"}]))
    same = ("availability", "hurt_requests", "recomputed_tokens")
    told = fault.summary()["outages"]
    assert [told[name] for name in same] == [numbers[name] for name in same]


def test_recovery_is_back_to_95_percent_of_the_rate_before() -> None:
    edges = np.arange(21.0)
    steady = np.cumsum([0.0] + [100.0] * 20)
    assert recovery_s(edges, steady, 5.0, 100.0) == 0.0
    gone = np.cumsum([0.0] + [100.0] * 5 + [0.0] * 15)
    assert recovery_s(edges, gone, 5.0, 100.0) is None
    back = np.cumsum([0.0] + [100.0] * 5 + [0.0] * 4 + [94.0] * 3 + [96.0] * 8)
    assert recovery_s(edges, back, 5.0, 100.0) == 9.0  # two intervals at 94 and one at 96 are not yet 95


@pytest.mark.slow
def test_words_and_report_say_the_numbers(result: sim.Result, numbers: dict[str, Any]) -> None:
    told = " ".join(outage_lines(numbers))
    assert "outages: 2, 1 with a warning; engines were up 9" in told
    assert "hurt: " in told
    page = section(Shown(result, result.summary()))
    assert page is not None
    assert "power shelf node0.power_shelf0" in page.html
    assert result.faults[0].what == "gpu node0.gpu0"
    assert len(result.charts.requests().to_dict()["layer"]) == 3  # band, line and bars
    assert str(result.charts.load().to_dict()).count("gpu node0.gpu0") > 0
    assert outage_lines({"count": 0, "warned": 0, "availability": 1.0}) == [
        "outages: none began before the end of the run"
    ]


@pytest.mark.slow
def test_a_slow_gpu_slows_the_steps_that_begin_while_it_is_slow() -> None:
    """An HBM stack less of eight: kernels take 8/7, collectives and host as long as before."""
    at = {"kind": "hbm_stack", "name": "node0.gpu0.hbm3", "at_s": 0.2, "until_s": 0.6}
    slow, played = (sim.simulate(short({"at": [at]}), fold=fold) for fold in (True, False))
    assert slow.requests.equals(played.requests)
    steps = slow.steps.filter((slow.steps["replica"] == 0) & (slow.steps["prefill_tokens"] == 0))
    in_time = (steps["start_s"] >= 0.2) & (steps["end_s"] < 0.6)
    during, other = (steps.filter(which)["first_step_s"].min() for which in (in_time, steps["start_s"] > 0.6))
    assert 1.05 < during / other < 8 / 7  # type: ignore[operator]
    assert "1.14 times slower" in slow.faults[0].what
    assert slow.summary()["outages"]["availability"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["host", "nvswitch_chip", "switch_tray", "rack", "replica", "nvlink"])
def test_a_run_with_an_outage_is_the_same_folded_and_played(kind: str) -> None:
    names = {
        "host": "node0.compute_tray0",
        "nvswitch_chip": "node0.nvswitch3",
        "switch_tray": "node0.switch_tray1",
        "rack": "node0",
        "replica": "replica1",
        "nvlink": "node0.gpu0-node0.nvswitch0",
    }
    outage = {"at": [{"kind": kind, "name": names[kind], "at_s": 0.3, "until_s": 0.5}]}
    folded, played = (sim.simulate(short(outage), fold=fold) for fold in (True, False))
    assert folded.requests.equals(played.requests)


@pytest.mark.slow
def test_a_run_with_a_time_limit_has_finite_medians_where_most_requests_finished() -> None:
    random = {"rates": {"gpu": 60, "host": 100}, "repair_mean_s": 1, "repair_median_s": 0.5}
    cut = sim.simulate(scenario({"random": random}, time_limit_s=9.5)).summary()
    assert cut["completed"] > 0.8 * (cut["completed"] + cut["unfinished"])
    assert cut["outages"]["count"] > 3
    for name in ("median_ttft_ms", "median_tpot_ms", "median_e2el_ms"):
        assert np.isfinite(cut[name])
