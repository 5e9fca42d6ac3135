"""`sim trace`, and the windows of `sim run`: what is drawn, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Sim
from tests.views.perfetto_trace import read

SCENARIO = """
topology: a100-x4
model: llama-3-8b
workload: {arrivals: {kind: burst}, prompt_tokens: 100, output_tokens: 4, requests: 3}
"""


@pytest.mark.slow
def test_a_window_is_drawn_by_the_run_and_from_its_folder_and_nonsense_is_refused(
    sim: Sim, tmp_path: Path
) -> None:
    scenario, out = tmp_path / "small.yaml", tmp_path / "run"
    scenario.write_text(SCENARIO)
    assert sim("run", scenario, "--out", out, "--trace-window", "10ms..20ms")[0] == 0
    assert sim("trace", out, "--window", "10ms..20ms")[0] == 0
    own, again = read(out / "trace.perfetto-trace"), read(tmp_path / "run.perfetto-trace")
    assert any(one.category == "kernel" for one in own.all("node0/gpu0"))
    assert own.all("node0/gpu0") == again.all("node0/gpu0")
    assert sim("run", scenario, "--out", out, "--force", "--trace-slowest", "1")[0] == 0
    assert read(out / "trace.perfetto-trace").all("where its time went")
    status, _, err = sim("run", scenario, "--out", out, "--force", "--trace-window", "3s..4s")
    assert (status, "--trace-window begins after the run has ended, at 0." in err) == (0, True)
    for words, said in (
        (["trace", out, "--window", "2s"], "--window '2s': must be two instants, as in 2s..2.2s"),
        (["trace", out, "--window", "2s..1s"], "must begin at 0 or later and end after that"),
        (["trace", out, "--window", "x..1s"], "'x' is not a quantity"),
        (["trace", out, "--requests", "3,x"], "'x' must be the number of a request, as in 3,7"),
        (["trace", out, "--requests", "7"], "this run has no such request; its requests are 0 to 2"),
        (["run", scenario, "--trace-slowest", "1"], "need --out, a folder to write to"),
    ):
        status, _, err = sim(*words)
        assert status == 2
        assert said in err.replace("\n", " ")
