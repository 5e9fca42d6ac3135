"""`sim explain`: the verdict of a saved run, as `sim run` printed it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Sim
from tests.cli.test_run import GOOD


@pytest.mark.slow
def test_a_saved_run_is_explained_as_it_was_when_it_ended(sim: Sim, tmp_path: Path) -> None:
    path, folder = tmp_path / "good.yaml", tmp_path / "out"
    path.write_text(GOOD)
    _, out, _ = sim("run", path, "--out", folder)
    told = [line.strip() for line in out.split("\nVerdict\n")[1].splitlines()]
    status, out, err = sim("explain", folder)
    assert (status, err) == (0, "")
    assert out.splitlines() == told
    assert "What limits is" in out
    _, out, _ = sim("explain", folder, "--format", "json")
    sentences = json.loads(out)
    assert [one["text"] for one in sentences] == told
    assert sentences[2]["numbers"]["share"] > 0
    page = tmp_path / "again.html"
    status, _, err = sim("explain", folder, "--report", page)
    assert (status, err) == (0, f"wrote {page}\n")
    assert "<h2>Verdict</h2>" in page.read_text()


def test_a_folder_that_is_no_run_is_refused(sim: Sim, tmp_path: Path) -> None:
    status, out, err = sim("explain", tmp_path)
    assert (status, out) == (2, "")
    assert "has no manifest.json" in err
