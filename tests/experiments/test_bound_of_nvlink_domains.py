"""The size of a scale-up domain: the talk's numbers, its formulas, a layer played, and a rack that serves."""

from __future__ import annotations

import pytest

from experiments.how_big_should_an_nvlink_domain_be import bound
from experiments.how_big_should_an_nvlink_domain_be.bound import (
    BASE,
    RACK,
    knee,
    largest,
    played_layer,
    rack_layer,
)
from sim import load_scenario
from sim.theory import domain_sizing as theory
from sim.views.answer import Row, Section

pytestmark = pytest.mark.slow  # the runs that all of it reads take seconds


@pytest.fixture(scope="module")
def told() -> Section:
    return bound.section(True)


def row(told: Section, case: str, quantity: str) -> Row:
    (found,) = [row for row in told.rows if row.case == case and row.quantity == quantity]
    return found


def test_the_rooflines_are_1250_and_8_9_and_come_from_the_description_of_the_rack(told: Section) -> None:
    assert row(told, "roofline", "FP4 flop per byte of HBM").simulated == pytest.approx(1250)
    assert row(told, "roofline", "bytes of HBM per byte of NVLink").simulated == pytest.approx(80 / 9)
    assert row(told, "NVL72", "links from a GPU to the switches").simulated == 18
    assert row(told, "NVL72", "NVLink of a GPU, one direction").simulated == pytest.approx(900)
    assert row(told, "N x N x N in FP4", "bound by compute from N =").estimate == pytest.approx(937.5)
    assert row(told, "N x N x 1 in FP4, N = 8192", "flop per byte").estimate == pytest.approx(4, rel=1e-3)


def test_the_model_card_has_the_talks_sizes(told: Section) -> None:
    case = "Llama-3-70B"
    exact = {
        "attention of a layer": 150.994944,
        "MLP of a layer": 704.643072,
        "embedding and output head": 2.101346304,
        "FP8 KV of a token, a layer": 2048,
        "FP8 KV of a token": 163840,
    }
    for quantity, value in exact.items():
        assert row(told, case, quantity).simulated == pytest.approx(value, rel=1e-9)
    tokens = row(told, case, "tokens beside FP8 weights on a B200")
    assert tokens.estimate == pytest.approx(744_629, abs=1)
    assert tokens.simulated < 0.85 * 744_629


def test_the_slides_factors_of_four_and_two_are_put_right(told: Section) -> None:
    case = "MLP layer, B = 16"
    assert row(told, case, "compute, times Y").simulated == pytest.approx(1.503, abs=1e-3)
    assert row(told, case, "compute, times Y").error == pytest.approx(3, abs=0.1)
    assert row(told, case, "reading weights, times Y").simulated == pytest.approx(58.72, abs=0.01)
    network = row(told, case, "all-reduce over 72 GPUs")
    assert network.estimate == pytest.approx(0.2913, abs=1e-4)
    assert network.simulated == pytest.approx(0.2913 * 71 / 72, abs=1e-4)


@pytest.mark.parametrize(
    ("latency_us", "at_batch"),
    [
        (0, {16: 201.6, 64: 50.4, 128: 25.2, 512: 6.3}),
        (1, {1: 57.7, 16: 45.5, 64: 27.1, 128: 17.6, 512: 5.7}),
        (2, {1: 29.1, 16: 25.6, 64: 18.55, 128: 13.6, 512: 5.2}),
        (4, {1: 14.6, 16: 13.7, 64: 11.4, 128: 9.3, 512: 4.4}),
    ],
)
def test_the_largest_useful_domain_is_the_formula_and_the_played_knee_is_within_a_gpu(
    told: Section, latency_us: int, at_batch: dict[int, float]
) -> None:
    for batch, domain in at_batch.items():
        found = row(told, f"largest useful domain, latency {latency_us} us", f"B = {batch}")
        assert found.estimate == pytest.approx(domain, abs=0.051)
        assert 0.0 < found.simulated - found.estimate < 1.05


def test_without_latency_the_played_knee_is_exactly_one_gpu_past_the_formula() -> None:
    d, f = theory.LLAMA_3_70B.hidden, theory.LLAMA_3_70B.intermediate
    formula = theory.largest_domain(16, d, f, theory.BLACKWELL)
    assert knee(16, 0.0) == pytest.approx(formula + 1, abs=0.01)


def test_a_played_layer_takes_its_reading_then_its_ring() -> None:
    parts = played_layer(16, 8, 1e-6)
    ring_s = 2 * 7 / 8 * 16 * 8192 / 9e11
    assert parts["all_reduce"] == pytest.approx(1e-6 + ring_s, rel=1e-9)
    assert parts["total"] == pytest.approx(2 * 8192 * 28672 / 8e12 / 8 + 1e-6 + ring_s, rel=1e-9)


def test_on_the_rack_the_gain_ends_where_the_engines_own_all_reduce_ends(told: Section) -> None:
    for batch in (16, 128):
        assert row(told, f"Llama's MLP on NVL72, B = {batch}", "quickest at Y =").simulated == 4
        case = f"Llama-3-70B FP8, 4 K context, B = {batch}"
        rate = {tp: row(told, case, f"TP{tp}, per user").simulated for tp in (1, 2, 4, 8)}
        assert rate[1] < rate[2] < rate[4]
        assert rate[8] < 1.05 * rate[4]  # a tray has four GPUs


def test_without_latency_every_doubling_helps_the_user_and_costs_throughput(told: Section) -> None:
    for batch in (16, 128):
        case = f"Llama-3-70B FP8, 4 K context, B = {batch}"
        ideal = [
            row(told, case, f"TP{tp}, all-reduces without latency, per user").simulated
            for tp in (2, 4, 8, 16, 32, 64)
        ]
        per_gpu = [row(told, case, f"TP{tp}, per GPU").simulated for tp in (1, 2, 4, 8, 16, 32, 64)]
        assert ideal == sorted(ideal)
        assert per_gpu == sorted(per_gpu, reverse=True)


def test_within_a_tray_decoding_takes_one_to_one_point_eight_times_the_closed_form(told: Section) -> None:
    compared = [
        one
        for one in told.rows
        if one.case.startswith("Llama-3-70B FP8")
        and one.quantity in {f"TP{tp}, per user" for tp in (1, 2, 4)}
    ]
    assert len(compared) == 6
    for one in compared:
        assert one.estimate is not None
        assert 1.0 < one.estimate / one.simulated < 1.8, one


def test_a_layer_over_more_than_a_rack_is_slower_than_over_one() -> None:
    base = load_scenario(BASE)
    for batch in (16, 128):
        one, two = (bound.total_s(rack_layer(base, batch, RACK * racks)) for racks in (1, 2))
        assert 1.2 * one < two


def test_a_switch_that_adds_moves_the_knee_as_the_closed_form_says() -> None:
    """M/Y = a + BD(1 + 1/Y)/Net: with 512 sequences two thirds farther than a ring, with 16 an eighth."""
    for batch, farther in ((16, 1.12), (512, 1.67)):
        formula = largest(batch, 1e-6, 900e9, in_switch=True)
        assert knee(batch, 1e-6, algorithm="nvls") == pytest.approx(formula, abs=0.05)
        assert formula / largest(batch, 1e-6, 900e9, in_switch=False) == pytest.approx(farther, abs=0.05)


def test_the_bounds_of_others_are_the_published_ones(told: Section) -> None:
    for row_ in (one for one in told.rows if one.case in ("DeepSeek's bound", "LIMINAL's bound")):
        assert row_.error == pytest.approx(0.0, abs=0.03)


def test_padding_the_mlp_to_72_gpus_still_reads_less_than_64_do() -> None:
    base = load_scenario(BASE)
    assert rack_layer(base, 16, 72)["memory"] <= rack_layer(base, 16, 64)["memory"]
