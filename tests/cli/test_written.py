"""Where in its file a scenario is wrong, when only the run finds it."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Sim

GOOD = """
topology: nd-h100-v5
model: llama-3-8b
engine: {tensor_parallel_size: 2}
workload: {arrivals: {kind: closed_loop, users: 1}, prompt_tokens: 50, output_tokens: 5, requests: 2}
"""


def test_what_cannot_be_has_the_file_and_the_line_of_the_first_key_that_it_names(
    sim: Sim, tmp_path: Path
) -> None:
    path = tmp_path / "five.yaml"
    path.write_text(
        GOOD.replace("{tensor_parallel_size: 2}", "\n  max_num_seqs: 8\n  tensor_parallel_size: 5")
    )
    status, _, err = sim("run", path)
    assert status == 3
    assert err.startswith(
        f"sim: {path}:6: engine.tensor_parallel_size: tensor_parallel_size 5 does not divide"
    )
    # what the command line changed stands in no line of the file
    status, _, err = sim("run", path, "--set", "engine.tensor_parallel_size=3")
    assert (status, err.partition(" does")[0]) == (
        3,
        "sim: engine.tensor_parallel_size: tensor_parallel_size 3",
    )
    # a reason that names no key is of the file as a whole
    path.write_text(
        GOOD.replace("llama-3-8b", "llama-3-70b").replace("engine: {tensor_parallel_size: 2}", "")
    )
    status, _, err = sim("run", path)
    assert (status, err.startswith(f"sim: {path}: llama-3-70b in bf16 does not fit")) == (3, True)
