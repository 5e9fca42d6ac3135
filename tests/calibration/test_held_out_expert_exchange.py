from __future__ import annotations

from statistics import median

from sim.calibration.held_out_expert_exchange import exchange_points, held_out
from sim.reading.data_files import measured

SAMPLE = measured() / "collectives" / "experts.csv"


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
