"""The twelve L40S: what the guide says and arithmetic gives, met by the simulation."""

from __future__ import annotations

import pytest

from experiments.how_to_split_twelve_l40s import answer
from sim.views.answer import Answer, Row

pytestmark = pytest.mark.slow  # the runs that all of it reads take seconds


@pytest.fixture(scope="module")
def told() -> Answer:
    return answer(True)


def row(told: Answer, case: str, quantity: str) -> Row:
    (found,) = [row for row in told.rows if row.case == case and row.quantity == quantity]
    return found


def factor(row: Row) -> float:
    """Simulated over the estimate by hand."""
    assert row.estimate is not None
    return row.simulated / row.estimate


def test_the_hand_over_of_268_mb_takes_bytes_over_rate(told: Answer) -> None:
    case = "hand-over of 32 x 512 tokens"
    assert row(told, case, "activations").simulated == pytest.approx(268.435456, rel=1e-12)
    assert row(told, case, "at 32 GB/s").simulated == pytest.approx(8.388608, rel=1e-9)
    assert row(told, case, "at what copies reach").simulated == pytest.approx(10.3, rel=0.01)


def test_four_micro_batches_leave_four_stages_idle_for_three_sevenths(told: Answer) -> None:
    idle = row(told, "PP4, 4 micro-batches of 8 x 512", "idle")
    assert idle.estimate == pytest.approx(3 / 7)
    assert idle.simulated == pytest.approx(3 / 7, rel=0.02)


def test_replicas_that_share_no_link_scale_linearly(told: Answer) -> None:
    for case, replicas in (("A: 12 x 1 GPU, llama-3-8b bf16", 12), ("B: 6 x TP2, llama-3-70b int8", 6)):
        assert row(told, case, "all replicas / one").simulated == pytest.approx(replicas, rel=0.02)


def test_pairs_apart_share_uplinks_and_pairs_over_sockets_share_upi(told: Answer) -> None:
    apart, far = (
        row(told, f"B: 6 x TP2, pairs over two {where}", "all replicas / one").simulated
        for where in ("switches", "sockets")
    )
    assert far < 0.9 * apart < 0.9 * 6


def test_all_reduces_at_once_take_as_long_as_their_bytes_on_the_shared_link(told: Answer) -> None:
    case = "six all-reduces of 64 MiB at once"
    for where in ("two switches each", "two sockets each"):
        assert factor(row(told, case, where)) == pytest.approx(1.0, abs=0.05)
    assert 1.0 < factor(row(told, case, "one switch each")) < 1.5


def test_large_all_reduces_take_one_to_one_and_a_half_times_their_bytes(told: Answer) -> None:
    large = [row for row in told.rows if row.case in ("all-reduce of 1 GB", "all-reduce of 64 MiB")]
    assert len(large) == 11
    for one in large:
        assert 0.95 < factor(one) < 1.5, one


def test_tp4_over_the_uplinks_reduces_slower_than_tp2_on_a_switch(told: Answer) -> None:
    assert row(told, "all-reduce in use", "TP4 over the uplinks / TP2 on a switch").simulated > 1.25
    small = {one.quantity: one.simulated for one in told.rows if one.case == "all-reduce of 16 KiB"}
    assert small["4 GPUs, one socket"] > 1.25 * small["2 GPUs, one switch"]


def test_what_fits_is_what_arithmetic_says_also_where_the_guide_errs(told: Answer) -> None:
    verdicts = {one.quantity: bool(one.simulated) for one in told.rows if one.unit == "1 = yes"}
    assert verdicts == {
        "llama-3-8b bf16 on 1 GPU": True,
        "llama-2-13b bf16 on 1 GPU": True,
        "llama-3-70b int4 on 1 GPU": True,
        "llama-3-70b int8 on 1 GPU": False,
        "llama-3-70b int8 on TP2": True,
        "llama-3-70b bf16 on TP2": False,
        "llama-3-70b bf16 on TP4": True,
        "dense-180b int4 on 1 GPU": False,
        "dense-180b int4 on TP4": True,
        "llama-3.1-405b int4 on TP4": False,
        "llama-3.1-405b int4 on TP4 x PP2": True,
    }


def test_a_prefill_takes_one_to_two_times_what_peaks_allow_and_a_decode_step_one_to_two_and_a_half(
    told: Answer,
) -> None:
    for case, most, number in (("a stage of 20 layers", 2.0, 2), ("one user, per token", 2.5, 3)):
        timed = [one for one in told.rows if case in (one.case, one.quantity)]
        assert len(timed) == number
        assert all(1.0 < factor(one) < most for one in timed)


def test_two_servers_are_better_split_by_pipeline_for_many_users_and_by_tensors_for_one(told: Answer) -> None:
    pipeline, tensors = "TP2 a server, PP2 over two servers", "TP4 over two servers"
    for_one = "one user, per token"
    assert row(told, pipeline, "64 users").simulated > row(told, tensors, "64 users").simulated
    assert row(told, pipeline, for_one).simulated > row(told, tensors, for_one).simulated
