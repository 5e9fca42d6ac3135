from __future__ import annotations

from statistics import median

from sim.calibration.held_out_expert_exchange import exchange_points, held_out
from sim.reading.data_files import measured

SAMPLE = measured() / "collectives" / "experts.csv"


def test_exchanges_on_ranks_and_machines_that_no_fit_saw_are_nearer_than_by_plain_models() -> None:
    judged = held_out(exchange_points(SAMPLE))
    assert {one.library for one in judged} == {
        "deepep_low_latency", "deepep_normal", "trtllm_NVLinkOneSided_nvfp4"
    }  # fmt: skip
    inside = [one for one in judged if not (one.library == "deepep_normal" and one.size > 8)]
    assert median(one.median for one in inside) < 0.15
    for plain in ("link_rate_median", "alpha_beta_median"):
        assert median(one.median for one in judged) < 0.6 * median(getattr(one, plain) for one in judged)
