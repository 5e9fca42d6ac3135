"""The machine of docs/your_machine.md, as a user writes it to a file: it loads, and each block of it acts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

import sim
from sim.cli import status_of

PAGE = Path(__file__).parents[2] / "docs" / "your_machine.md"


def test_the_machine_of_the_page_says_what_it_borrows_and_each_of_its_blocks_acts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    assert status_of(["topology", "check", str(path), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["gpus"], found["in_domain_bytes_per_s"]) == (8, 3 * 100e9 * 0.8)
    taken = {gap["what"]: gap["taken"] for gap in found["left_open"]}
    assert taken["kernels of x1"].startswith("those of h100-sxm, scaled; true times")
    assert taken["steps and launches on the host of x1"] == "those of servers with NVIDIA GPUs"
    assert taken["collectives between servers"].startswith("those of nd-h100-v5 over InfiniBand")
    assert "collectives in a server" not in taken, "the file gives them"
    assert taken["gpus.x1.visible_hbm_bytes"].startswith("hbm_bytes")
    written = yaml.safe_load(text)
    times = {
        what: sim.collective({**written, **change}, "all_reduce", 8192, ranks).total_s
        for what, ranks, change in (
            ("inside", 4, {}),
            ("inside, a library of others", 4, {"collectives": {"like": "hopper"}}),
            ("across", 8, {}),
            ("across, NCCL's own hop", 8, {"transports": {}}),
        )
    }
    assert times["inside"] - times["inside, a library of others"] == pytest.approx(6e-6 - 4.237e-6)
    assert times["across"] > times["across, NCCL's own hop"] + 2 * (12e-6 - 5e-6) * 0.9


def test_a_library_of_ones_own_is_refused_where_it_is_none() -> None:
    pair = {"parts": {"gpu": {"kind": "gpu", "count": 2, "model": "h100-sxm"}},
            "wires": [{"from": "gpu", "to": "gpu", "pattern": "all", "link": "nvlink4"}]}  # fmt: skip
    for block, said in (
        ({"nccl": {"ring": {"LLX": {}}}}, "nccl.ring.LLX is not a known key; LL, LL128, Simple are"),
        ({"nccl": {"direct": {"efficiency": 0}}}, "nccl.direct.efficiency = 0 is not a number above 0"),
        ({"nccl": {"direct": {"base_s": "4 GB"}}}, "nccl.direct.base_s: '4 GB' is not a time"),
    ):
        with pytest.raises(sim.InputError, match=re.escape(said)):
            sim.load_topology({**pair, "collectives": block})
    with pytest.raises(
        sim.InfeasibleError, match=r"collectives.like = 'volta': no such kind.*ampere, hopper"
    ):
        sim.collective({**pair, "collectives": {"like": "volta"}}, "all_reduce", 1e6)
