"""The timeline, read back with the format's own protobuf: requests, replicas, GPUs, links, arrows, faults."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

import sim
from sim.inputs.errors import InputError
from sim.results.recorded import Windows
from sim.results.setting import FaultSetting
from sim.runtime.recording import Recorder
from sim.simulate import Result
from sim.timelines import timeline
from sim.views import timeline_window
from sim.views.timeline import write_trace
from tests.views.perfetto_trace import Read, Slice, read

WINDOW = (0.1, 0.2)
SERVICE = {
    "topology": "nd-h100-v5",
    "model": "llama-3-8b",
    "engine": {"tensor_parallel_size": 2, "pipeline_parallel_size": 2},
    "workload": {
        "arrivals": {"kind": "poisson", "rate_per_s": 40},
        "prompt_tokens": 300,
        "output_tokens": 12,
        "requests": 12,
    },
    "faults": [{"at_s": 0.15, "until_s": 0.16, "link": "node0.gpu0->nvlink0", "capacity": 0.5}],
}
TORCH = {"kernel", "gpu_user_annotation", "user_annotation"}
"""Categories of torch's profiler that a timeline has (torch/csrc/autograd/profiler_kineto.cpp, libkineto)."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = sim.simulate(sim.Scenario.model_validate(SERVICE))
    return run.save(tmp_path_factory.mktemp("timeline") / "run")


@pytest.fixture(scope="module")
def window(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Read:
    path = tmp_path_factory.mktemp("timeline") / "window.perfetto-trace"
    assert timeline(sim.load_result(saved), path, window=WINDOW) == ()
    return read(path)


def ns(seconds: float) -> int:
    return round(seconds * 1e9)


def test_the_trace_has_every_request_from_arrival_to_end_and_its_steps_fill_the_busy_time(
    folder: Path, result: Result
) -> None:
    found = read(folder / "trace.perfetto-trace")
    assert list(found.pids.values()) == list(range(1, len(found.pids) + 1))
    requests = [one for one in found.all("requests/") if not one.depth]
    assert [one.name for one in requests] == [f"request {n}" for n in result.requests["request_id"]]
    assert [one.begin_ns for one in requests] == [ns(at_s) for at_s in result.requests["arrival_s"]]
    assert [one.end_ns for one in requests] == [ns(at_s) for at_s in result.requests["finished_s"]]
    for one in requests:
        causes = sum(sum(one.values[part].values()) for part in ("ms until the first token", "ms after it"))
        assert causes * 1e6 == pytest.approx(one.end_ns - one.begin_ns, rel=1e-4)
    drawn_ns = sum(one.end_ns - one.begin_ns for one in found.all("/stage"))
    busy_s = float((result.steps["end_s"] - result.steps["start_s"]).sum())
    assert drawn_ns == pytest.approx(busy_s * 1e9, rel=1e-6)
    for what in ("waiting", "running"):
        assert found.counters[f"{result.title}/requests {what}"][-1][1] == 0
    for replica in range(2):
        assert max(value for _, value in found.counters[f"replica {replica}/KV blocks"]) > 0
        assert found.counters[f"replica {replica}/batch: decodes"][-1][1] == 0


@pytest.mark.slow
def test_a_gpu_has_every_op_of_every_layer_in_the_window_and_the_bubbles_are_gaps(window: Read) -> None:
    gpus = {track: slices for track, slices in window.slices.items() if track.startswith("node0/gpu")}
    assert [track.rpartition("/")[2] for track in gpus] == [
        "gpu0 (replica 0, stage 0, rank 0)",
        "gpu1 (replica 0, stage 0, rank 1)",
        "gpu2 (replica 0, stage 1, rank 0)",
        "gpu3 (replica 0, stage 1, rank 1)",
    ]
    for track, slices in gpus.items():
        stage = int(track.partition("stage ")[2][0])
        steps = [one for one in slices if one.depth == 0]
        assert {one.category for one in slices} <= TORCH
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            inside = [one for one in slices if step.begin_ns <= one.begin_ns and one.end_ns <= step.end_ns]
            layers = [one.name for one in inside if one.depth == 1 and one.name.startswith("layer ")]
            assert layers == [f"layer {stage * 16 + number}" for number in range(16)]
            leaves = [one for one in inside if one.category == "kernel" or one.name.startswith("waiting")]
            assert sum(one.end_ns - one.begin_ns for one in leaves) == step.end_ns - step.begin_ns
            assert following is None or following.begin_ns >= step.end_ns
        gaps = [b.begin_ns - a.end_ns for a, b in pairwise(steps)]
        assert max(gaps) > 0, "a pipeline with few batches has bubbles"
    other = [[one.name for one in slices] for slices in gpus.values()]
    assert other[0] == other[1], "ranks go through the same ops"


@pytest.mark.slow
def test_arrows_lead_from_a_request_to_its_step_to_its_gpus_and_to_links(window: Read) -> None:
    by_flow: dict[int, list[Slice]] = {}
    for one in window.all():
        for flow in one.flows:
            by_flow.setdefault(flow, []).append(one)
    kinds = {tuple(_place(one) for one in slices) for slices in by_flow.values()}
    # The GPUs of a stage, and the links of a kind in both directions: activations before and behind a step.
    assert kinds == {
        ("request", "step"), ("step", "gpu", "gpu"), ("op", "link"), ("step", "link"),
    }  # fmt: skip
    for slices in by_flow.values():
        request, step = slices[0], slices[1]
        if _place(request) == "request":
            assert request.track.rpartition(" ")[2] in step.values["requests"].split(", ")
            assert request.name in ("prefill", "decode")


def _place(one: Slice) -> str:
    if one.track.startswith("requests/"):
        return "request"
    if "/gpu" in one.track and "link" not in one.track:
        return "op" if one.category == "kernel" else "gpu"
    return "link" if one.category == "transfer" else "step"


def test_the_bytes_under_a_link_counter_are_those_of_its_transfers(window: Read) -> None:
    link = "node0/nvlink4, 8 links of 369 GB/s/node0.gpu0->nvlink0: "
    counter = window.counters[f"{link}bytes/s"]
    n_bytes = sum(value * (until_ns - at_ns) / 1e9 for (at_ns, value), (until_ns, _) in pairwise(counter))
    assert counter[-1][1] == 0
    names = {one.name for one in window.slices[f"{link}transfers"]}
    assert names == {"all_reduce", "activations to the next stage"}
    run = sim.simulate(sim.Scenario.model_validate(SERVICE), recorder=Recorder(Windows.of([WINDOW])))
    assert run.recorded is not None
    number = run.recorded.links.index("node0.gpu0->nvlink0")
    ops = [op.transfer for step in run.recorded.steps for op in step.ops() if op.transfer is not None]
    expected = sum(
        one.n_bytes[one.links.index(number)] for one in [*ops, *run.recorded.transfers] if number in one.links
    )
    assert n_bytes == pytest.approx(expected, rel=0.01)  # nanoseconds of transfers of a few microseconds


@pytest.mark.slow
def test_a_window_of_a_saved_run_is_that_of_the_run_itself(saved: Path, window: Read, tmp_path: Path) -> None:
    run = sim.simulate(sim.Scenario.model_validate(SERVICE), recorder=Recorder(Windows.of([WINDOW])))
    write_trace(run, tmp_path / "own", run.recorded, run.faults)
    own = read(tmp_path / "own")
    assert own.counters == window.counters
    open_then = {track for track in own.slices if "where its time went" in track}  # some end after the window
    assert {track for track in own.slices if own.slices[track] != window.slices[track]} <= open_then
    plain = read(saved / "trace.perfetto-trace")
    assert all(
        window.slices[track] == slices for track, slices in plain.slices.items() if "request" not in track
    )


@pytest.mark.slow
def test_requests_that_are_asked_for_have_their_causes_in_order_and_arrows_to_all_their_steps(
    saved: Path, tmp_path: Path
) -> None:
    run = sim.load_result(saved)
    timeline(run, tmp_path / "three", requests=[3])
    found = read(tmp_path / "three")
    whole, *_ = found.slices["requests/requests 0 to 99/request 3"]
    causes = found.slices["requests/requests 0 to 99/request 3: where its time went"]
    assert (causes[0].begin_ns, causes[-1].end_ns) == (whole.begin_ns, whole.end_ns)
    assert all(a.end_ns == b.begin_ns for a, b in pairwise(causes))
    assert [one.name for one in causes[:2]] == ["admission", "prefill steps, most of it host"]
    assert causes[-1].name.startswith("decode steps, most of it ")
    steps = [one for one in found.all("stage 0, step by step") if "3" in one.values["requests"].split(", ")]
    flows = {flow for one in found.slices["requests/requests 0 to 99/request 3"] for flow in one.flows}
    assert len(steps) == len(flows) == 12  # a prompt, and 11 tokens more
    timeline(run, tmp_path / "slowest", slowest=1)
    slow = run.requests.with_columns(s=run.requests["finished_s"] - run.requests["arrival_s"])
    number = slow.sort("s")["request_id"][-1]
    assert any("where its time went" in track for track in read(tmp_path / "slowest").slices)
    assert f"request {number}: where" in " ".join(read(tmp_path / "slowest").slices)


def test_faults_and_the_end_of_the_run_are_marks(window: Read) -> None:
    title = "llama-3-8b on nd-h100-v5, 1 node(s)"
    fault = "link node0.gpu0->nvlink0 at 50% of its capacity"
    assert window.marks[f"{title}/fault: {fault}"] == [
        (ns(0.15), f"{fault} fails"),
        (ns(0.16), f"{fault} is back"),
    ]
    assert window.marks[f"{title}/end of the run"][0][1] == "all requests ended"


@pytest.mark.slow
def test_a_timeline_stays_bounded_and_says_where_its_ops_end(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline_window, "MOST_SLICES", 3000)
    monkeypatch.setattr(timeline_window, "MOST_ON_LINKS", 10)
    one_of_each, up_to, by_kind = timeline(sim.load_result(saved), tmp_path / "short", window=WINDOW)
    assert "one GPU of each stage is drawn" in one_of_each
    assert "GPUs and links are drawn up to 0.1" in up_to
    assert "links are drawn by kind" in by_kind
    found = read(tmp_path / "short")
    assert len([one for one in found.all("node0/gpu") if one.category == "kernel"]) < 3000
    assert found.all("step by step")[-1].end_ns > ns(0.19), "steps are drawn to the end"
    assert not any("node0.gpu0->nvlink0" in track for track in found.slices if track.startswith("node0"))


@pytest.mark.slow
def test_what_cannot_be_drawn_is_refused_with_what_can(saved: Path, tmp_path: Path) -> None:
    run = sim.load_result(saved)
    for arguments, words in (
        ({"requests": [99]}, "request 99: .* its requests are 0 to 11"),
        ({"window": (5.0, 6.0)}, r"window 5s\.\.6s: must begin before the run ends, at 0\."),
        ({"window": (0.2, 0.1)}, "must begin at 0 or later and end after that"),
    ):
        with pytest.raises(InputError, match=words):
            timeline(run, tmp_path / "none", **arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="there is no folder"):
        timeline(run, tmp_path / "no" / "where")
    other = replace(sim.simulate(sim.Scenario.model_validate(SERVICE), seed=1), seed=2)
    with pytest.raises(InputError, match="does not give this run again"):
        timeline(other, tmp_path / "none", window=WINDOW)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_real_trace_processor_reads_it(saved: Path) -> None:
    binary = shutil.which("trace_processor_shell") or shutil.which("trace_processor")
    if binary is None:
        pytest.skip("trace_processor_shell is not on the path: the timeline is read by its protobuf alone")
    from perfetto.trace_processor import TraceProcessor, TraceProcessorConfig

    with TraceProcessor(
        trace=str(saved / "trace.perfetto-trace"), config=TraceProcessorConfig(bin_path=binary)
    ) as asked:
        rows = list(asked.query("select count(*) as n from slice where category = 'request' and depth = 0"))
        errors = list(asked.query("select name from stats where severity = 'error' and value > 0"))
    assert rows[0].n == SERVICE["workload"]["requests"]  # type: ignore[index]
    assert not errors


@pytest.mark.slow
def test_a_fault_after_the_end_is_not_drawn(result: Result, tmp_path: Path) -> None:
    late = FaultSetting("replica 1", result.end_s + 1.0, None, True)
    write_trace(result, tmp_path / "late", None, [late])
    assert not any("fault" in track for track in read(tmp_path / "late").marks)
