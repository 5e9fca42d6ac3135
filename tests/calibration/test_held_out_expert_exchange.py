from __future__ import annotations

from math import log2
from statistics import median

import pytest

from sim.calibration.held_out_expert_exchange import (
    ExchangePoint,
    alpha_beta,
    at_link_rate,
    exchange_points,
    fitted,
    held_out,
)
from sim.reading.data_files import measured

SAMPLE = measured() / "collectives" / "experts.csv"


@pytest.mark.slow
def test_exchanges_on_ranks_and_machines_that_no_fit_saw_are_nearer_than_by_plain_models() -> None:
    found = held_out(exchange_points(SAMPLE))
    assert {one.library for one in found} == {
        "deepep_low_latency", "deepep_normal", "trtllm_NVLinkOneSided_nvfp4"
    }  # fmt: skip
    inside = [one for one in found if not (one.library == "deepep_normal" and one.size > 8)]
    assert median(one.errors.median for one in inside) < 0.15
    for plain in ("link_rate", "alpha_beta"):
        beside = median(getattr(one, plain).median for one in found)
        assert median(one.errors.median for one in found) < 0.6 * beside


def test_each_model_of_an_exchange_is_what_it_says() -> None:
    """By hand: 10 us, 2 us more with each doubling of the ranks, and 1 MB at 0.8 of 100 GB/s."""

    def point(ranks: int, n_bytes: float) -> ExchangePoint:
        flow_s = n_bytes / 100e9
        seconds = 10e-6 + 2e-6 * log2(ranks) + flow_s / 0.8
        return ExchangePoint("a kernel", "a", "b", ranks, "dispatch", n_bytes, flow_s, flow_s / 4, seconds)

    points = [point(ranks, n_bytes) for ranks in (2, 4, 8) for n_bytes in (1e4, 1e5, 1e6, 1e7)]
    unseen = point(16, 1e6)
    assert at_link_rate(unseen) == 1e6 / 100e9
    assert fitted(points)(unseen) == pytest.approx(10e-6 + 8e-6 + 12.5e-6, rel=1e-3)
    same_ranks = [point(8, n_bytes) for n_bytes in (1e4, 1e5, 1e6, 1e7)]
    assert alpha_beta(same_ranks)(point(8, 2e6)) == pytest.approx(16e-6 + 25e-6, rel=1e-3)
