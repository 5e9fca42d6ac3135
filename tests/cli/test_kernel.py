"""`sim kernel`: one kernel and what bounds it."""

from __future__ import annotations

import json

from tests.cli.conftest import Sim


def test_kernel_prints_the_parts_of_its_time(sim: Sim) -> None:
    words = "kernel h100-sxm gemm --m 64 --n 8192 --k 8192 --dtype bf16".split()
    status, out, _ = sim(*words)
    assert status == 0
    assert "memory" in out
    _, out, _ = sim(*words, "--format", "json")
    timing = json.loads(out)
    assert timing["total_s"] > 2 * 8192 * 8192 / 3.35e12
