from __future__ import annotations

from math import inf

from sim.workload.request import Request


def test_a_text_is_the_prompt_and_the_output() -> None:
    assert Request(0, 0.0, 100, 20).total_tokens == 120


def test_by_default_a_request_shares_nothing_and_its_client_waits_for_ever() -> None:
    request = Request(0, 0.0, 100, 20)
    assert (request.block_hashes, request.session) == ((), -1)
    assert (request.patience_s, request.timeout_s, request.hashed_tokens) == (inf, inf, inf)
