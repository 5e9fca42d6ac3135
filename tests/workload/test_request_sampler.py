"""What is drawn of a request, and what two requests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.inputs.arrivals import Trace
from sim.inputs.errors import InputError
from sim.inputs.workload import Workload
from sim.workload.request_sampler import (
    RequestSampler,
    describe_traces,
    played_part,
    recorded_trace,
    session_blocks,
)

ARRIVALS = {"kind": "poisson", "rate_per_s": 5.0}
LOGNORMAL = {"kind": "lognormal", "mean": 100, "cv": 1}


def workload(**description: Any) -> Workload:
    defaults = {"arrivals": ARRIVALS, "prompt_tokens": LOGNORMAL, "output_tokens": 10, "requests": 1}
    return Workload.model_validate(defaults | description)


def test_a_class_of_its_own_distributions_changes_no_other_request() -> None:
    classes = {"a": {"share": 3}, "b": {"prompt_tokens": 7, "prefix": {"tokens": 64}}}
    plain, mixed = RequestSampler(workload(), 0), RequestSampler(workload(classes=classes), 0)
    drawn = mixed.draw_classes(1000)
    own = drawn == mixed.names.index("b")
    assert own.mean() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 1000) ** 0.5)
    prompts, _ = mixed.draw_lengths(drawn)
    assert (prompts[own] == 7).all()
    assert (prompts[~own] == plain.draw_lengths(np.zeros(1000, dtype=np.int64))[0][~own]).all()
    groups = mixed.draw_prefixes(drawn)
    assert (groups[own] == 0).all()
    assert (groups[~own] == -1).all()


def test_blocks_of_groups_of_distributions_and_of_sessions_are_all_different() -> None:
    prefix = {"tokens": 64, "groups": 2}
    sampler = RequestSampler(workload(prefix=prefix, classes={"a": {"share": 1}, "b": {"prefix": prefix}}), 0)
    seen = [
        *sampler.prefixes[0].blocks(0),
        *sampler.prefixes[0].blocks(1),
        *sampler.prefixes[1].blocks(0),
        *session_blocks(0, 0, 4),
        *session_blocks(1, 0, 4),
    ]
    assert len(set(seen)) == len(seen) == 3 * 4 + 2 * 4
    assert sampler.prefixes[-1] is sampler.prefixes[0]
    assert session_blocks(1, 0, 4)[2:] == session_blocks(1, 2, 4)


def test_clients_wait_for_ever_where_a_class_has_no_patience() -> None:
    classes = {"a": {"share": 1}, "b": {"share": 1, "patience_s": 2.0}}
    sampler = RequestSampler(workload(classes=classes, timeout_s=9.0), 0)
    patience_s, timeout_s = sampler.draw_patience(np.array([0, 1, 0]))
    assert patience_s.tolist() == [np.inf, 2.0, np.inf]
    assert timeout_s.tolist() == [9.0, 9.0, 9.0]
    assert sampler.clients_give_up
    assert not RequestSampler(workload(), 0).clients_give_up


def test_a_trace_is_found_by_name_or_by_path_and_read_again_when_it_changes(tmp_path: Path) -> None:
    assert len(recorded_trace(Trace(kind="trace", name="azure-llm-2023-conversation"))) == 3000
    path = tmp_path / "mine.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n5,10,1\n7,20,2\n")
    mine = Trace(kind="trace", path=str(path))
    assert len(recorded_trace(mine)) == 2
    path.write_text("arrival_s,prompt_tokens,output_tokens\n5,10,1\n7,20,2\n9,30,3\n")
    assert len(recorded_trace(mine)) == 3
    assert len(played_part(Trace(kind="trace", path=str(path), limit=1))) == 1


def test_an_unknown_trace_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="azure-llm-2023-code"):
        recorded_trace(Trace(kind="trace", name="azure-llm-2023-cod"))
    with pytest.raises(InputError, match="cannot be read"):
        recorded_trace(Trace(kind="trace", path="nowhere.csv"))


def test_each_trace_of_a_workload_is_described_once() -> None:
    lengths = {"kind": "trace", "name": "arxiv-summarization-lengths"}
    (line,) = describe_traces(workload(prompt_tokens=lengths, output_tokens=lengths))
    assert "Vidur trace, 600 of 600 rows; lengths only" in line


def test_a_part_of_a_trace_is_described_by_its_rows_and_rate() -> None:
    arrivals = {
        "kind": "trace",
        "name": "azure-llm-2023-conversation",
        "duration_s": 60,
        "limit": 100,
        "speedup": 4,
    }
    described = Workload.model_validate({"arrivals": arrivals})
    whole, part = describe_traces(described)
    assert isinstance(described.arrivals, Trace)
    at_s = played_part(described.arrivals).arrival_s
    assert at_s is not None
    assert "3000 of 3000 rows" in whole
    assert f"100 rows are played; {99 / (at_s[-1] - at_s[0]):.4g} arrivals/s" in part
