"""The two-node experiment meets its measurements, for the reasons it gives."""

from __future__ import annotations

from functools import cache

import pytest

import sim
from experiments import why_is_tp16_slower_than_tp8 as experiment
from sim.cost.host_time import sequence_s, step_s
from sim.views.answer import Answer, Row

ONE_NODE = ("A: TP4", "B: TP8")


@cache
def answered() -> Answer:
    return experiment.answer(True)


def row(case: str, quantity: str) -> Row:
    return next(row for row in answered().rows if (row.case, row.quantity) == (case, quantity))


def causes_ms(case: str, **changes: object) -> dict[str, float]:
    """Milliseconds of the one request, by cause."""
    ways = {**experiment.CASES, **experiment.WHAT_IF}
    base = sim.with_changes(sim.load_scenario(experiment.SCENARIO), {"workload.requests": 1})
    blame = sim.simulate(sim.with_changes(base, {**ways[case], **changes})).blame.row(0, named=True)
    return {cause: 1e3 * seconds for cause, seconds in blame.items() if cause != "request_id"}


@pytest.mark.parametrize("case", ONE_NODE)
@pytest.mark.parametrize("quantity", ["throughput", "latency", "TPOT"])
def test_one_node_is_predicted_within_5_percent_with_nothing_fitted(case: str, quantity: str) -> None:
    found = row(case, quantity)
    assert found.kind == "predicted"
    assert found.error == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("case", ONE_NODE)
def test_one_constant_brings_both_first_tokens_within_5_percent(case: str) -> None:
    assert row(case, "TTFT").error == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize(
    ("case", "quantity", "within"),
    [
        ("C: TP8 x PP2", "TPOT", 0.01),
        ("C: TP8 x PP2", "TTFT", 0.08),
        ("D: TP16", "TPOT", 0.01),
        ("D: TP16", "TTFT", 0.02),
        ("NCCL all-reduce, 8 GPUs", "bus bandwidth", 0.05),
        ("NCCL all-reduce, 16 GPUs", "bus bandwidth", 0.05),
        ("A: TP4", "weights on a GPU", 0.01),
        ("A: TP4", "KV cache", 0.01),
        ("B: TP8", "KV cache", 0.01),
    ],
)
def test_what_was_fitted_or_follows_from_it_meets_its_measurement(
    case: str, quantity: str, within: float
) -> None:
    assert row(case, quantity).error == pytest.approx(0.0, abs=within)


def test_two_nodes_load_each_nic_with_32_gb_per_s_below_its_49() -> None:
    load = row("NCCL all-reduce, 16 GPUs", "load of one NIC, per direction")
    assert load.simulated == pytest.approx(32.2, rel=0.05)


def test_every_estimate_by_hand_is_within_its_stated_factor() -> None:
    estimated = [row for row in answered().rows if row.estimate is not None]
    assert len(estimated) >= 9
    for found in estimated:
        assert found.estimate is not None
        ratio = found.simulated / found.estimate
        assert 1.0 / experiment.ESTIMATE_WITHIN < ratio < experiment.ESTIMATE_WITHIN, found


def test_c_loses_to_b_by_host_work_alone_and_a_hop_below_a_tenth_of_a_millisecond() -> None:
    c, b = causes_ms("C: TP8 x PP2"), causes_ms("B: TP8")
    more = {cause: (c[cause] - b[cause]) / experiment.OUTPUT_TOKENS for cause in c}
    engine = sim.load_scenario(experiment.SCENARIO).engine
    of_one = step_s(engine) + sequence_s(engine)
    assert more.pop("host") == pytest.approx(1e3 * (of_one + engine.host.stage_s), rel=1e-3)
    assert 0.0 < more.pop("pipeline") < 0.1
    assert sum(map(abs, more.values())) < 0.01


def test_d_waits_for_the_latency_of_all_reduces_most_of_its_time() -> None:
    causes = causes_ms("D: TP16")
    assert causes["collective_latency"] > 0.6 * sum(causes.values())
    assert causes["collective_bytes"] < 0.03 * sum(causes.values())


def test_without_the_calibrated_cause_c_and_d_miss_by_far() -> None:
    c = sum(causes_ms("C: TP8 x PP2", **experiment.AHEAD).values())
    d = sum(causes_ms("D: TP16", **{"engine.inter_node": "ib-nccl-model"}).values())
    assert c < 0.75 * 7590
    assert d < 0.5 * 14930


def test_no_mended_way_over_two_nodes_serves_one_user_a_tenth_faster_than_one_node() -> None:
    alone = row("B: TP8", "throughput").simulated
    for case in experiment.WHAT_IF:
        assert row(case, "throughput").simulated < 1.1 * alone


def test_a_full_run_says_what_the_quick_one_says() -> None:
    for quick, full in zip(answered().rows, experiment.answer(False).rows, strict=True):
        assert full.simulated == pytest.approx(quick.simulated, rel=1e-9)
