from __future__ import annotations

from pathlib import Path

import pytest

from sim.inputs.errors import InputError
from sim.reading.workload_files import read_workload
from sim.workload.generator import request_generator

SHIPPED = sorted((Path(__file__).parents[2] / "workloads").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_workload_reads_and_sends(path: Path):
    workload = read_workload(path)
    assert workload.name == path.stem
    first = next(iter(request_generator(workload, seed=0)))
    assert first.prompt_tokens > 0
    assert first.output_tokens > 0


def test_the_path_of_a_trace_is_relative_to_the_file_that_names_it(tmp_path: Path):
    (tmp_path / "mine.csv").write_text("arrival_s,prompt_tokens,output_tokens\n3,4,5\n")
    (tmp_path / "mine.yaml").write_text("arrivals: {kind: trace, path: mine.csv}\n")
    assert next(iter(request_generator(read_workload(tmp_path / "mine.yaml"), 0))).prompt_tokens == 4


def test_all_problems_are_said_at_once_with_their_lines(tmp_path: Path):
    path = tmp_path / "bad.yaml"
    path.write_text(
        "arrivals:\n  kind: poisson\n  rate_per_s: -3\nprompt_tokens:\n  kind: uniform\n  low: 5\n  hig: 7\n"
        "output_tokens: -1\nrequests: 5\nslo: {ttft: 4}\n"
    )
    with pytest.raises(InputError) as caught:
        read_workload(path)
    said = str(caught.value)
    for part in (
        "bad.yaml:3: arrivals.rate_per_s: -3 is negative",
        "bad.yaml:7: prompt_tokens.hig: is not a known key",
        "bad.yaml:8: output_tokens: -1 is negative",
        "did you mean 'ttft_ms'?",
    ):
        assert part in said
