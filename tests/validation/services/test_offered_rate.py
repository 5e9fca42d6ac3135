"""TensorRT-LLM at an offered rate."""

from __future__ import annotations

from sim.validation.services.offered_rate import online_rows

ROW = {
    "trtllm": "0.14", "model": "Llama-3.1-8B", "gpu": "H100", "precision": "fp8", "tp": "1",
    "isl_mean": "200", "osl_mean": "50", "requests": "40", "offered_qps": "INF",
    "mean_ttft_ms": "100", "mean_itl_ms": "10", "output_tok_per_s": "4000",
}  # fmt: skip


def test_all_requests_at_once_wait_longer_for_a_first_token_than_at_a_low_rate() -> None:
    at_once, slowly = online_rows(ROW), online_rows({**ROW, "offered_qps": "2"})
    assert [row.quantity for row in at_once] == ["mean TTFT", "mean ITL", "output throughput"]
    assert [row.published for row in at_once] == [100.0, 10.0, 4000.0]
    assert at_once[0].simulated > 2 * slowly[0].simulated
    assert at_once[2].simulated > 2 * slowly[2].simulated
    assert slowly[0].of["offered"] == "2"
