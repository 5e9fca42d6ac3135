"""Decode steps read off the seconds of a log."""

import numpy as np

from sim.validation.services import request_logs
from sim.validation.services.single_steps import running_and_context, stretches


def test_decode_steps_are_read_off_quiet_seconds_and_met():
    """By hand: 2 s without a prompt, 4 requests all the while, 80 tokens: 20 steps of 100 ms. One quiet
    second alone is no stretch.
    """
    seconds = [
        {"t": t, "gen_throughput": tokens, "prompt_throughput": prompt}
        for t, tokens, prompt in ((1, 9, 5), (2, 40, 0), (3, 40, 0), (4, 9, 7), (5, 9, 0), (6, 9, 7))
    ]
    assert list(stretches(seconds)) == [(1.0, 3.0, 80.0)]
    rows = request_logs.log_steps("rtxpro6000_llama31_8b_tp1")
    assert len(rows) >= 4
    assert all(abs(row.error) < 0.12 for row in rows)
    few = request_logs.log_steps("rtxpro6000_qwen3_30b_a3b_dp2ep2")
    assert all(abs(row.error) < 0.06 for row in few if 20 < row.size < 150)


def test_running_requests_and_their_context_are_means_over_a_stretch():
    """By hand: two requests of 100 and 300 prompt tokens, half of 200 tokens generated on average."""
    log = {
        "first_token_s": np.array([0.0, 0.0]), "last_token_s": np.array([10.0, 10.0 + 1e-9]),
        "input_tokens": np.array([100.0, 300.0]), "output_tokens": np.array([200.0, 200.0]),
    }  # fmt: skip
    running, context = running_and_context(log, 4.0, 6.0)
    assert (running, round(context, 6)) == (2.0, 300.0)
    assert running_and_context(log | {"last_token_s": np.array([5.0, 10.0])}, 4.0, 6.0) is None
