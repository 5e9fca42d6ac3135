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


def test_a_kernel_says_what_it_rests_on(sim: Sim) -> None:
    _, out, err = sim(*"kernel h100-sxm gemm --m 64 --n 8192 --k 8192".split())
    assert "Rests on: measured on h100-sxm (held-out error" in out
    assert err == ""
    borrowed = "kernel l40s moe --tokens 64 --hidden 4096 --inter 1024 --topk 8 --experts 64 --dtype w4a8"
    _, out, err = sim(*borrowed.split())
    assert "note: not measured on l40s: kernels of rtx-pro-6000 stand in" in err
    assert "Rests on: borrowed from rtx-pro-6000" in out
    _, out, _ = sim(*borrowed.split(), "--format", "json")
    assert json.loads(out)["basis"]["basis"] == "stand-in"
