"""`sim collective`: the columns of nccl-tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Sim


def test_collective_prints_the_columns_of_nccl_tests(sim: Sim) -> None:
    words = "collective all_reduce --topology nd-h100-v5 --ranks 8 -b 8 -e 8G -f 2".split()
    status, out, err = sim(*words)
    assert (status, err) == (0, "")
    assert "busbw (GB/s)" in out
    assert len([line for line in out.splitlines() if line.strip()[:1].isdigit()]) == 31
    status, out, _ = sim(*words, "--format", "json")
    rows = json.loads(out)["rows"]
    assert [rows[0]["n_bytes"], rows[-1]["n_bytes"]] == [8, 8 * 2**30]
    for row in rows:
        assert row["algbw_bytes_per_s"] == pytest.approx(row["n_bytes"] / row["total_s"])
        assert row["busbw_bytes_per_s"] == pytest.approx(row["algbw_bytes_per_s"] * 2 * 7 / 8)


@pytest.mark.slow
def test_a_time_that_falls_where_an_engine_changes_its_kernel_is_explained_with_its_source(sim: Sim) -> None:
    words = "collective all_reduce -t hgx-b200 -b 256K -e 1M".split()
    status, _, err = sim(*words)
    assert status == 0
    assert err.startswith(
        "note: 1048576 B take less than 524288 B: between them vllm goes over from two_shot"
    )
    assert "from two_shot (vllm) to multimem (vllm)" in err
    assert "all_reduce_utils.py" in err
    _, out, _ = sim(*words, "--format", "json")
    assert json.loads(out)["notes"] == [err.removeprefix("note: ").strip()]


def test_a_collective_has_a_line_and_a_band_and_one_of_an_own_machine_a_note(
    sim: Sim, tmp_path: Path
) -> None:
    words = ("collective", "all_reduce", "--ranks", "2", "-b", "8M", "-e", "8M", "-t")
    _, out, err = sim(*words, "nd-h100-v5")
    assert "Rests on: measured on h100-sxm (held-out error" in out
    assert "band (us)" in out
    assert err == ""
    own = tmp_path / "mine.yaml"
    own.write_text(
        "name: mine\nparts: {gpu: {kind: gpu, count: 2, model: h100-sxm}}\n"
        "wires: [{from: gpu, to: gpu, pattern: all, link: nvlink4, links: 9}]\n"
    )
    _, out, err = sim(*words, own)
    assert err.startswith("note: not measured on this machine: collectives of h100, h200 stand in")
    assert "Rests on: borrowed from h100, h200 (true times" in out
    _, out, _ = sim(*words, own, "--format", "json")
    assert json.loads(out)["rows"][0]["basis"]["basis"] == "stand-in"


def test_each_basis_of_a_range_of_sizes_has_its_line(sim: Sim) -> None:
    _, out, _ = sim(*"collective all_reduce -t nd-h100-v5 -n 8 -b 8 -e 8M -f 64".split())
    assert "Rests on, from 8 B: measured on h100-sxm" in out
    assert "Rests on, from 2097152 B: measured on h100-sxm" in out


def test_a_collective_of_one_rank_is_refused(sim: Sim) -> None:
    words = "collective all_reduce -t nd-h100-v5 --ranks 1".split()
    assert sim(*words) == (
        2,
        "",
        "sim: --ranks 1: must be at least 2; one GPU has no other to exchange with\n",
    )


def test_a_size_in_b_may_be_bits_and_is_refused(sim: Sim) -> None:
    status, out, err = sim("collective", "all_reduce", "-t", "nd-h100-v5", "-b", "8Gb", "-e", "8Gb")
    assert (status, out) == (2, "")
    assert "'8Gb' leaves open whether bits or bytes are meant" in err
