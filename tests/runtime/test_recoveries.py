"""Engines that fail and come back: late notice, restarts, spares, racks, and engines that go on smaller."""

from __future__ import annotations

from typing import Any

import pytest

from sim.scenario import Scenario, with_changes
from sim.simulate import Result, simulate
from tests.laws.key_scenarios import small

RESTART = {"process_start_s": 2.0, "graph_capture_s": 1.0, "weights_bytes_per_s": "4 GB/s"}
"""Three seconds, and the weights of an engine of one GPU at 4 GB/s."""


def service(**rest: Any) -> Scenario:
    """A request a tenth of a second, on two engines of one GPU each."""
    return Scenario.model_validate(
        {
            "topology": "nd-h100-v5",
            "model": small("llama-3-8b"),
            "replicas": 2,
            "router": "round_robin",
            "workload": {
                "arrivals": {"kind": "constant", "rate_per_s": 10.0},
                "prompt_tokens": 300,
                "output_tokens": 8,
                "requests": 70,
            },
            "time_limit_s": 60.0,
            **rest,
        }
    )


def experts(**rest: Any) -> Scenario:
    """Eight data-parallel ranks that share the experts, each expert twice."""
    model = small("qwen3-30b-a3b", 2)
    engine = {
        "data_parallel_size": 8,
        "enable_expert_parallel": True,
        "expert_routing": {"redundant_experts": model["experts"]},
        "max_num_seqs": 2,
    }
    arrivals = {"kind": "closed_loop", "users": 16}
    workload = {"arrivals": arrivals, "prompt_tokens": 100, "output_tokens": 40, "duration_s": 0.9}
    loss = {"on_loss": "shrink", "shrink_pause_s": 0.05, "rejoin_pause_s": 0.02}
    described = {"topology": "nd-h100-v5", "model": model, "engine": engine, "recovery": loss}
    return Scenario.model_validate({**described, "workload": workload, "time_limit_s": 60.0, **rest})


def with_both_ways(scenario: Scenario, *, check: bool = True) -> Result:
    """The run, which is the same played op by op and keeps every invariant."""
    folded, played = simulate(scenario, check=check), simulate(scenario, fold=False)
    assert folded.requests.equals(played.requests)
    assert folded.steps.equals(played.steps)
    return folded


def finished(result: Result) -> int:
    whole = result.requests.filter(result.requests["status"] == "finished")
    assert (whole["generated_tokens"] == whole["output_tokens"]).all()
    return len(whole)


def first_steps_after(result: Result, replica: int, since_s: float) -> float:
    """When an engine's first step after an instant began."""
    steps = result.steps.filter((result.steps["replica"] == replica) & (result.steps["start_s"] > since_s))
    return float(steps["start_s"].min())  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_failure_is_noticed_late_and_what_the_router_sent_meanwhile_waits() -> None:
    fault = {"at_s": 2.0, "until_s": 9.0, "replica": 1}
    late = with_both_ways(service(faults=[fault], recovery={"detection_s": 3.0}))
    at_once = simulate(service(faults=[fault]))
    assert finished(late) == finished(at_once) == 70
    waited = late.requests.filter(late.requests["finished_s"] - late.requests["arrival_s"] > 1.0)
    assert len(waited) in range(9, 12)  # every other one of two seconds
    assert waited["finished_s"].min() > 5.0
    assert at_once.requests["finished_s"].to_numpy().max() < 7.5
    assert 15.0 < late.blame["routing"].sum() < 25.0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["resubmit", "abort"])
def test_clients_may_give_up_while_a_failure_is_unnoticed(how: str) -> None:
    fault = {"at_s": 2.0, "replica": 1}
    run = service(faults=[fault], recovery={"detection_s": 3.0}, on_failure=how)
    impatient = with_both_ways(with_changes(run, {"workload.timeout_s": 1.5}), check=how == "abort")
    assert not impatient.unfinished
    lost = impatient.requests.filter(impatient.requests["status"] == "aborted")
    # Every other request of a second and a half, and of three where they end with an error.
    assert len(lost) in (range(7, 10) if how == "resubmit" else range(14, 18))
    assert finished(impatient) + len(lost) == 70
    patient = simulate(run)
    assert finished(patient) == (70 if how == "resubmit" else 70 - len(lost))


def test_a_restart_takes_its_parts_from_the_repair_on() -> None:
    fault = {"at_s": 2.0, "until_s": 2.1, "gpu": "node0.gpu1"}
    run = simulate(service(faults=[fault], recovery={"on_loss": "restart", **RESTART}))
    plan = run.deployment.replicas[1]
    assert plan.memory is not None
    ready_s = 2.1 + 3.0 + plan.memory.weight_bytes / 4e9
    assert ready_s - 1e-9 <= first_steps_after(run, 1, 2.05) < ready_s + 0.25
    over_links = simulate(
        service(
            faults=[fault],
            recovery={
                "on_loss": "restart",
                **RESTART,
                "weights_from": "node0.host0",
                "weights_bytes_per_s": 1e13,
            },
        )
    )
    path_s = plan.memory.weight_bytes / 50e9
    assert 5.1 + 0.3 * path_s < first_steps_after(over_links, 1, 2.05) < 5.35 + 5 * path_s


def test_a_process_that_dies_is_started_again_when_that_is_noticed() -> None:
    recovery = {"on_loss": "restart", **RESTART, "detection_s": 0.5}
    run = simulate(service(faults=[{"at_s": 2.0, "replica": 1}], recovery=recovery))
    assert 5.5 < first_steps_after(run, 1, 2.1) < 7.0


def test_a_spare_stands_in_until_there_is_none() -> None:
    faults = [
        {"at_s": 2.0, "until_s": 6.0, "gpu": "node0.gpu0"},
        {"at_s": 2.5, "until_s": 8.0, "gpu": "node0.gpu1"},
    ]
    quick = {"process_start_s": 0.5, "graph_capture_s": 0.0, "weights_bytes_per_s": "100 GB/s"}
    run = simulate(service(faults=faults, recovery={"on_loss": "spare", "spares": 1, **quick}))
    assert finished(run) == 70
    assert first_steps_after(run, 0, 2.1) < 2.9
    assert 6.5 <= first_steps_after(run, 1, 2.6) < 7.0  # the first GPU, repaired
    none = simulate(service(faults=faults, recovery={"on_loss": "spare", **quick}))
    assert first_steps_after(none, 0, 2.1) > 6.5


def test_the_third_tray_takes_the_rack_out_of_service_until_it_is_back() -> None:
    faults = [{"at_s": 1.0 + tray, "until_s": 6.0, "gpu": f"node0.gpu{40 + 4 * tray}"} for tray in range(3)]
    rack = service(topology="gb200-nvl72", replicas=20, faults=faults, recovery={"cordon_trays": 3})
    run = simulate(rack)
    assert finished(run) == 70
    begun = run.steps.filter((run.steps["start_s"] > 3.0) & (run.steps["start_s"] < 6.0))
    assert len(begun) == 0
    two = simulate(with_changes(rack, {"faults": faults[:2]}))
    assert len(two.steps.filter((two.steps["start_s"] > 3.0) & (two.steps["start_s"] < 6.0)))


@pytest.mark.slow
def test_an_engine_goes_on_without_half_of_its_ranks_and_takes_them_back() -> None:
    faults = [{"at_s": 0.3, "until_s": 0.6, "gpu": f"node0.gpu{gpu}"} for gpu in range(4)]
    run = with_both_ways(experts(faults=faults))
    assert finished(run) == len(run.requests)
    begins_s = run.steps["start_s"].to_numpy()
    for at_s, pause_s in ((0.3, 0.05), (0.6, 0.02)):
        assert not ((begins_s > at_s) & (begins_s < at_s + pause_s)).any()
        assert ((begins_s >= at_s + pause_s) & (begins_s < at_s + pause_s + 0.02)).any()
    hurt = run.requests.filter(run.requests["resubmissions"] > 0)
    assert len(hurt) in range(6, 9)  # those of four ranks with two seats each
    finished_s = run.requests["finished_s"].to_numpy()

    def rate(since_s: float, until_s: float) -> float:
        return float(((finished_s > since_s) & (finished_s <= until_s)).sum() / (until_s - since_s))

    before, smaller, after = rate(0.1, 0.3), rate(0.4, 0.6), rate(0.7, 0.9)
    assert 0.4 < smaller / before < 0.75
    assert after / before == pytest.approx(1.0, abs=0.15)


@pytest.mark.slow
def test_an_engine_without_copies_of_all_experts_restarts() -> None:
    fault = {"at_s": 0.3, "until_s": 0.6, "gpu": "node0.gpu0"}
    run = experts(faults=[fault])
    alone = with_changes(run, {"engine.expert_routing.redundant_experts": 0})
    restarted = simulate(with_changes(alone, {"recovery": {"on_loss": "shrink", **RESTART}}))
    assert first_steps_after(restarted, 0, 0.35) > 3.6
    assert finished(restarted) == len(restarted.requests)


def restarted_s(result: Result, replica: int, after_s: float) -> float:
    """When an engine works for the first time after an instant."""
    steps = result.steps.filter((result.steps["replica"] == replica) & (result.steps["start_s"] > after_s))
    return float(steps["start_s"].min())  # type: ignore[arg-type]


def test_an_engine_of_a_host_that_is_back_loads_its_weights_once() -> None:
    recovery = {"on_loss": "restart", **RESTART, "weights_bytes_per_s": "400 GB/s"}
    recovery["weights_from"] = "node0.host0"
    scenario = service(engine={"tensor_parallel_size": 4}, recovery=recovery)
    out = {"kind": "host", "name": "node0", "at_s": 1.0, "until_s": 1.5}
    of_parts = simulate(with_changes(scenario, {"outages": {"at": [out]}}))
    of_server = simulate(with_changes(scenario, {"faults": [{"at_s": 1.0, "until_s": 1.5, "node": "node0"}]}))
    assert of_parts.steps.equals(of_server.steps)


@pytest.mark.slow
def test_a_failure_during_a_restart_starts_it_anew() -> None:
    faults = [{"at_s": begin_s, "until_s": begin_s + 0.25, "gpu": "node0.gpu0"} for begin_s in (1.0, 2.0)]
    result = with_both_ways(service(faults=faults, recovery={"on_loss": "restart", **RESTART}))
    assert 2.25 + 3.0 < restarted_s(result, 0, 1.5) < 2.25 + 4.5


@pytest.mark.slow
def test_shares_that_add_up_to_a_link_take_it_down() -> None:
    half = {"at_s": 1.0, "place": "node0.gpu0", "capacity": 0.5}
    scenario = service(engine={"tensor_parallel_size": 2}, recovery={"executor_timeout_s": 2.0})
    result = with_both_ways(with_changes(scenario, {"faults": [half, half]}))
    assert (result.requests["status"] == "finished").all()  # where the other engine is
    assert (result.requests["resubmissions"] > 0).any()


def test_a_failure_too_large_for_the_spares_leaves_them_to_others() -> None:
    faults = [{"at_s": 1.0, "node": "node0"}, {"at_s": 2.0, "gpu": "node1.gpu0"}]
    recovery = {"on_loss": "spare", "spares": 2, **RESTART, "weights_bytes_per_s": "400 GB/s"}
    engine = {"tensor_parallel_size": 8}
    result = with_both_ways(service(nodes=2, engine=engine, faults=faults, recovery=recovery))
    assert 5.0 < restarted_s(result, 1, 2.1) < 5.1


@pytest.mark.slow
def test_ranks_repaired_while_a_link_keeps_their_engine_down_work_again() -> None:
    lost = {"at_s": 0.1, "until_s": 0.4, "gpu": "node0.gpu3"}
    cut = {"at_s": 0.2, "until_s": 0.5, "place": "node0.gpu0"}
    at_once = {"process_start_s": 0.0, "graph_capture_s": 0.01, "weights_bytes_per_s": "1 TB/s"}
    scenario = with_changes(experts(faults=[lost, cut]), {
        "recovery.executor_timeout_s": 0.05, **{f"recovery.{key}": value for key, value in at_once.items()}
    })  # fmt: skip
    steps = with_both_ways(scenario).steps
    assert steps.filter(steps["start_s"] > 0.7)["decode_tokens"].max() == 16  # 2 of each of eight ranks


def test_outages_are_told_with_the_keys_of_recovery() -> None:
    gpu = {"kind": "gpu", "name": "node0.gpu0", "at_s": 1.0, "until_s": 3.0}
    idle = {**gpu, "name": "node0.gpu7"}
    chips = {**gpu, "kind": "nvswitch_chip", "name": "*"}
    recovery = {"detection_s": 0.5, "executor_timeout_s": 1.0}
    for out, silent in (
        ([gpu, idle], {"recovery.executor_timeout_s"}),
        ([chips], set()),
        ([idle], {"recovery.executor_timeout_s", "recovery.detection_s", "on_failure"}),
    ):
        scenario = service(
            engine={"tensor_parallel_size": 2}, outages={"at": out}, recovery=recovery, on_failure="abort"
        )
        words = simulate(scenario).summary()["keys"]["no_effect"]
        assert {key for key in words if key.partition(".")[0] in ("recovery", "on_failure")} == silent


@pytest.mark.slow
def test_a_rank_repaired_within_the_pause_leaves_no_second_unaccounted() -> None:
    back = {"at_s": 0.1046, "until_s": 0.14, "gpu": "node0.gpu3"}
    assert (
        with_both_ways(experts(faults=[back])).requests["resubmissions"].sum() == 0
    )  # the check adds causes up


@pytest.mark.slow
@pytest.mark.parametrize("detection_s", [0.0, 0.5])
def test_requests_that_end_when_their_failure_is_noticed_are_lost(detection_s: float) -> None:
    out = {"kind": "gpu", "name": "node0.gpu0", "at_s": 1.0, "until_s": 3.0}
    recovery = {"detection_s": detection_s}
    result = with_both_ways(service(outages={"at": [out]}, on_failure="abort", recovery=recovery))
    told, aborted = result.summary()["outages"], result.requests["status"] == "aborted"
    assert told["lost_requests"] == told["hurt_requests"] == aborted.sum()
    assert aborted.any() == bool(detection_s)


@pytest.mark.slow
def test_all_six_chips_of_a_server_take_its_nvlink_down() -> None:
    chips = {
        "kind": "nvswitch_chip",
        "name": "*",
        "at_s": 1.0,
        "until_s": 3.0,
    }  # 6 times 1 - (1 - 1/6) is not 1
    scenario = service(engine={"tensor_parallel_size": 2}, recovery={"executor_timeout_s": 1.0})
    result = with_both_ways(with_changes(scenario, {"topology": "dgx-a100", "outages": {"at": [chips]}}))
    assert (result.requests["resubmissions"] > 0).any()
