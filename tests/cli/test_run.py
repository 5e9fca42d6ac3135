"""`sim run`: from a file to numbers and a folder, and every way in which the input can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Sim

GOOD = """
topology: nd-h100-v5
model: llama-3-8b
engine: {tensor_parallel_size: 2}
workload: {arrivals: {kind: closed_loop, users: 1}, prompt_tokens: 50, output_tokens: 5, requests: 2}
"""


BOMB = "l0: &l0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"l{i + 1}: &l{i + 1} [{', '.join([f'*l{i}'] * 9)}]\n" for i in range(9)
)


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return path


def test_a_run_prints_a_summary_and_json_stands_alone(sim: Sim, scenario: Path) -> None:
    status, out, err = sim("run", scenario)
    assert (status, err) == (0, "")
    assert "time to first token" in out
    status, out, _ = sim("run", scenario, "--format", "json")
    assert json.loads(out)["completed"] == 2


def test_a_run_says_what_its_kv_cache_holds_as_vllm_does(sim: Sim, scenario: Path) -> None:
    limits = ("--set", "engine.num_gpu_blocks_override=1000", "--set", "engine.max_model_len=2000")
    _, out, _ = sim("run", scenario, *limits)
    assert "GPU KV cache size: 16,000 tokens (1,000 blocks)" in out
    assert "Maximum concurrency for 2,000 tokens per request: 8.00x" in out
    _, out, _ = sim("run", scenario, *limits, "--format", "json")
    numbers = json.loads(out)
    assert (numbers["kv_cache_tokens"], numbers["kv_cache_blocks"], numbers["max_concurrency"]) == (
        16_000,
        1000,
        8,
    )
    assert numbers["engines"][""]["precision"]["weights"] == "bf16"


@pytest.mark.slow
def test_a_run_says_which_precision_it_took_from_a_checkpoint(
    sim: Sim, scenario: Path, tmp_path: Path
) -> None:
    from sim.reading.data_files import workloads

    keys = json.loads((workloads() / "models" / "llama-3-8b.json").read_text())
    keys["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (tmp_path / "mine.json").write_text(json.dumps(keys))
    model = ("--set", f"model={tmp_path / 'mine.json'}")
    told = "precision.weights = fp8_block, as quantization_config of mine says (fp8: fp8_block)"
    _, out, err = sim("run", scenario, *model, "--format", "json", "--out", tmp_path / "saved")
    assert f"note: {told}\n" in err
    assert json.loads(out)["engines"][""]["checkpoint"] == told
    assert told in (tmp_path / "saved" / "report.html").read_text()
    written = ("--set", "precision.weights=fp8_block")
    _, same, err = sim("run", scenario, *model, *written, "--format", "json")
    assert (err, json.loads(same)["mean_tpot_ms"]) == ("", json.loads(out)["mean_tpot_ms"])
    _, _, err = sim("run", scenario, *model, "--set", "precision.weights=bf16")
    assert "note: precision.weights = bf16, as the scenario says" in err


def test_a_run_says_where_windowed_layers_keep_whole_texts(sim: Sim, tmp_path: Path) -> None:
    path = tmp_path / "windowed.yaml"
    path.write_text(GOOD.replace("llama-3-8b", "gpt-oss-120b"))
    said = "the 18 sliding-window layers of gpt-oss-120b keep the KV of whole texts"
    _, out, err = sim("run", path, "--format", "json")
    assert said not in err
    longer = json.loads(out)["max_concurrency"]
    _, out, err = sim("run", path, "--set", "engine.disable_hybrid_kv_cache_manager=true", "--format", "json")
    assert f"note: {said}" in err
    assert longer > 1.8 * json.loads(out)["max_concurrency"]


def test_percentiles_are_those_that_are_asked_for(sim: Sim, scenario: Path) -> None:
    _, out, _ = sim("run", scenario)
    assert out.split("latency (ms)")[1].split()[:8] == [
        "mean", "median", "p90", "p95", "p99", "p99.9", "max", "std",
    ]  # fmt: skip
    _, out, _ = sim("run", scenario, "--percentiles", "50,99.99")
    assert out.split("latency (ms)")[1].split()[:5] == ["mean", "p50", "p99.99", "max", "std"]
    _, out, _ = sim("run", scenario, "--percentiles", "99.99", "--format", "json")
    assert json.loads(out)["p99.99_itl_ms"] <= json.loads(out)["max_itl_ms"]
    for wrong in ("50,101", "-1", "p99", ""):
        status, _, err = sim("run", scenario, f"--percentiles={wrong}")
        assert status == 2
        assert "must be from 0 to 100, as in 50,90,99.9" in err


def test_the_causes_of_each_latency_are_printed_and_none_of_them_is_rounding(
    sim: Sim, scenario: Path
) -> None:
    _, out, _ = sim("run", scenario, "--set", "workload.arrivals={kind: burst}")
    causes = out.split("where the time went (ms)")[1]
    head, rows = causes.splitlines()[0], causes.splitlines()[2:]
    assert [column.strip() for column in head.split("  ") if column.strip()] == [
        "ttft", "ttft, slowest tenth", "itl", "itl, slowest tenth", "e2el", "e2el, slowest tenth",
        "share of e2el",
    ]  # fmt: skip
    assert "interference" in causes
    assert not any("e-" in row for row in rows)


@pytest.mark.slow
def test_a_warm_up_is_left_out_by_the_rule_that_the_scenario_states(sim: Sim, scenario: Path) -> None:
    ten = ("--set", "workload.requests=10")
    for rule, left_out in (("0.2", 2), ("20 %", 2), ("mser5", 0), ("null", 0)):
        status, out, _ = sim("run", scenario, *ten, "--set", f"warmup={rule}", "--format", "json")
        assert (status, json.loads(out)["warmup_requests"]) == (0, left_out)
        assert json.loads(out)["completed"] == 10 - left_out
    for wrong in ("1", "1.5", "-0.1", "welch"):
        status, _, err = sim("run", scenario, *ten, "--set", f"warmup={wrong}")
        assert status == 2
        assert err.startswith(f"sim: warmup: {yaml.safe_load(wrong)!r}: must be a share from 0 to below 1")
        assert err.count("\n") == 1
    assert err.endswith("or 'mser5'\n")
    assert "did you mean 'mser5'" in sim("run", scenario, "--set", "warmup=mser")[2]


def test_a_fault_that_hits_nothing_is_noted_with_its_line_and_the_run_goes_on(
    sim: Sim, tmp_path: Path
) -> None:
    path = tmp_path / "idle.yaml"
    path.write_text(GOOD + "faults:\n  - {at_s: 0, gpu: node0.gpu7}\n")
    why = "nothing fails: no engine runs on node0.gpu7"
    note = f"note: {path}:7: faults[0].gpu and at_s have no effect here: {why}\n"
    status, out, err = sim("run", path)
    assert (status, err) == (0, note)
    assert "time to first token" in out
    changed = "faults=[{at_s: 0, gpu: node0.gpu6}]"
    assert sim("run", path, "--set", changed)[2].startswith(
        "note: faults[0].gpu and at_s have no effect here: nothing fails"
    )


def test_set_changes_values_and_no_fold_gives_the_same_numbers(sim: Sim, scenario: Path) -> None:
    _, out, _ = sim("run", scenario, "--set", "workload.requests=3", "--format", "json")
    assert json.loads(out)["completed"] == 3
    _, folded, _ = sim("run", scenario, "--format", "json")
    _, played, _ = sim("run", scenario, "--format", "json", "--no-fold")
    one, other = json.loads(folded), json.loads(played)
    assert one["mean_e2el_ms"] == pytest.approx(other["mean_e2el_ms"], rel=1e-9)


def test_a_run_cut_short_prints_what_it_has_and_says_what_was_waiting(sim: Sim, scenario: Path) -> None:
    status, out, err = sim("run", scenario, "--set", "time_limit_s=0.02", "--format", "json")
    assert status == 4
    assert json.loads(out)["unfinished"] >= 1
    assert "not finished" in err
    assert "KV blocks" in err


def test_a_negative_seed_is_refused(sim: Sim, scenario: Path) -> None:
    status, out, err = sim("run", scenario, "--seed", "-1")
    assert (status, out) == (2, "")
    assert "--seed" in err


@pytest.mark.slow
def test_an_existing_folder_is_refused_before_the_run_and_overwritten_with_force(
    sim: Sim, scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "out"
    status, printed, err = sim("run", scenario, "--out", out, "--format", "json")
    assert status == 0
    assert json.loads(printed)["completed"] == 2
    assert str(out) in err
    assert sim("run", scenario, "--out", out, "--force")[0] == 0

    import sim as package

    monkeypatch.setattr(package, "load_scenario", lambda _: pytest.fail("the run began"))
    status, _, err = sim("run", scenario, "--out", out)
    assert status == 2
    assert "--force" in err


@pytest.mark.slow
def test_a_run_that_fails_does_not_claim_its_folder_for_good(
    sim: Sim, scenario: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert sim("run", scenario, "--set", "engine.tensor_parallel_size=3", "--out", out)[0] == 3
    assert not out.exists()
    assert sim("run", scenario, "--out", out)[0] == 0


@pytest.mark.parametrize(("text", "status", "hints"), [
    ("", 2, ["bad.yaml"]),
    ("just words", 2, ["bad.yaml"]),
    ("a: [1, 2", 2, ["bad.yaml:"]),
    (GOOD.replace("engine", "engien"), 2, ["bad.yaml:4", "engien", "engine"]),
    (GOOD.replace("tensor_parallel_size", "tensor_paralel_size"), 2, ["bad.yaml:4", "tensor_parallel_size"]),
    (GOOD.replace("size: 2", "size: two"), 2, ["bad.yaml:4", "whole number"]),
    (GOOD.replace("size: 2", "size: -2"), 2, ["bad.yaml:4"]),
    (GOOD.replace("nd-h100-v5", "nd-h100-v4"), 2, ["bad.yaml", "nd-h100-v5"]),
    (GOOD.replace("llama-3-8b", "llama-3-9b"), 2, ["bad.yaml", "llama-3-8b"]),
    (GOOD.replace("llama-3-8b", "missing/config.json"), 2, ["missing/config.json"]),
    (GOOD + "time_limit_s: 5 GB\n", 2, ["bad.yaml:6", "time_limit_s"]),
    (GOOD + "nodes: 0\n", 2, ["bad.yaml:6: nodes: must be a whole number of servers", "from 1 to"]),
    (GOOD + "replicas: 1000000000000\n", 2, ["bad.yaml:6: replicas"]),
    (GOOD + "kernels: {kind: measured, path: 5}\n", 2, ["bad.yaml:6: kernels"]),
    (GOOD + "time_limit_s: 0\n", 2, ["time_limit_s", "time_limit_s = 0: must be more than 0"]),
    (GOOD + "pools: {decode: {}}\n", 3, ["role: prefill"]),
    (GOOD.replace("size: 2", "size: 3"), 3, ["3", "2"]),
    (GOOD.replace("size: 2", "size: 16"), 3, ["16", "8"]),
    (GOOD.replace("llama-3-8b", "llama-3.1-405b"), 3, ["GiB more", "size 8 with fp8 weights fits"]),
    (BOMB, 2, ["bad.yaml"]),
])  # fmt: skip
def test_bad_input_is_refused_with_the_place_and_what_would_be_right(
    sim: Sim, tmp_path: Path, text: str, status: int, hints: list[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    got, out, err = sim("run", path)
    assert (got, out) == (status, ""), err
    assert "Traceback" not in err
    for hint in hints:
        assert hint in err, err


def test_a_change_that_would_reach_no_pool_is_refused(sim: Sim, tmp_path: Path) -> None:
    path = tmp_path / "apart.yaml"
    path.write_text(GOOD + "pools: {prefill: {}, decode: {}}\n")
    status, _, err = sim("run", path, "--set", "replicas=2")
    assert status == 2
    assert "pools.prefill.replicas" in err


@pytest.mark.parametrize(("change", "hint"), [
    ("engine.tensor_parallel_siez=4", "tensor_parallel_size"),
    ("nonsense", "KEY=VALUE"),
    ("engine.max_num_seqs=[1", "YAML"),
    ("workload.requests=many", "workload"),
])  # fmt: skip
def test_a_bad_change_is_refused(sim: Sim, scenario: Path, change: str, hint: str) -> None:
    status, out, err = sim("run", scenario, "--set", change)
    assert (status, out) == (2, "")
    assert hint in err


def test_changes_fill_a_block_that_was_left_out_and_nodes_go_with_a_new_topology(sim, scenario):
    drafts = ["engine.speculation.num_speculative_tokens=2", "engine.speculation.acceptance_rate=0.8"]
    words = [word for one in drafts for word in ("--set", one)]
    status, out, _ = sim("run", scenario, *words, "--format", "json")
    assert status == 0
    _, plain, _ = sim("run", scenario, "--format", "json")
    assert json.loads(out)["duration"] < json.loads(plain)["duration"]
    status, _, err = sim("run", scenario, *words, "--set", "engine.speculation.draft=1")
    assert status == 2
    assert "engine.speculation.draft" in err
    for order in (("topology=hgx-h200", "nodes=3"), ("nodes=3", "topology=hgx-h200")):
        words = [word for one in order for word in ("--set", one)]
        status, out, _ = sim("run", scenario, *words)
        assert status == 0
        assert "on hgx-h200, 3 node(s)" in out


@pytest.mark.slow
def test_a_rule_is_changed_by_its_kind_and_its_knobs(sim, scenario):
    for words, word in (
        (["router.kind=prefix_aware"], "prefix_aware"),
        (["hand_over.router.kind=round_robin"], "round_robin"),
        (["placement.kind=strided", "placement.stride=4"], "strided"),
    ):
        out = scenario.parent / word
        status, _, err = sim(
            "run", scenario, *(one for change in words for one in ("--set", change)), "--out", out
        )
        assert status == 0, err
        assert f"kind: {word}" in (out / "scenario.resolved.yaml").read_text()
    status, _, err = sim("run", scenario, "--set", "router.kind=sideways")
    assert status == 2
    assert "router: kind = 'sideways': must be one of " in err


DOWN = "faults: [{at_s: 0.1, replica: 1}]\nreplicas: 2\n"


def test_a_replica_that_stays_down_is_no_unfinished_run_where_every_request_has_ended(
    sim: Sim, tmp_path: Path
) -> None:
    path = tmp_path / "down.yaml"
    path.write_text(
        GOOD.replace("{kind: closed_loop, users: 1}", "{kind: constant, rate_per_s: 20}").replace(
            "requests: 2}", "requests: 8}"
        )
        + DOWN
    )
    status, out, err = sim("run", path, "--format", "json")
    assert (status, err, json.loads(out)["completed"]) == (0, "", 8)


def test_a_fault_that_ends_the_run_is_not_said_to_have_come_after_it(sim: Sim, tmp_path: Path) -> None:
    path = tmp_path / "fails.yaml"
    fails = GOOD + "on_failure: abort\nfaults: [{at_s: 0.002, replica: 0, until_s: 1}]\n"
    path.write_text(fails.replace("requests: 2}", "requests: 1}"))
    status, out, err = sim("run", path, "--format", "json")
    assert (status, err, json.loads(out)["aborted"]) == (0, "", 1)


def test_a_link_that_requests_wait_for_is_not_said_to_be_unused(sim: Sim, tmp_path: Path) -> None:
    path = tmp_path / "cut.yaml"
    cut = "node0.gpu0->nvlink0"
    path.write_text(GOOD + f"faults: [{{at_s: 0, link: {cut}, capacity: 0}}]\ntime_limit_s: 1\n")
    status, _, err = sim("run", path)
    assert status == 4
    assert "nothing is slower" not in err
    assert f"transfers wait for {cut}, which is down" in err


def test_answers_that_end_at_max_model_len_are_counted_and_noted(sim: Sim, scenario: Path) -> None:
    words = ("--set", "engine.max_model_len=64", "--set", "workload.output_tokens=1000")
    status, out, err = sim("run", scenario, *words, "--format", "json")
    assert (status, json.loads(out)["cut_answers"]) == (0, 2)
    assert json.loads(out)["total_generated_tokens"] == 2 * (64 - 50)
    assert err == (
        "note: 2 of 2 answers ended before the tokens that they asked for (up to 1000), where prompt and "
        "answer had max_model_len, 64 tokens\n"
    )
    assert "cut_answers" not in json.loads(sim("run", scenario, "--format", "json")[1])


def test_numbers_are_printed_though_the_folder_cannot_be_written(
    sim: Sim, scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sim.views.save.write_trace", full)
    status, out, err = sim("run", scenario, "--out", tmp_path / "out", "--format", "json")
    assert (status, json.loads(out)["completed"]) == (2, 2)
    assert err == f"sim: {tmp_path / 'out'} cannot be written: No space left on device\n"
    assert not (tmp_path / "out").exists()


def test_a_folder_that_another_run_writes_is_refused_before_the_run(
    sim: Sim, scenario: Path, tmp_path: Path
) -> None:
    from sim.results.whole_files import locked

    with locked(tmp_path / "out"):
        status, out, err = sim("run", scenario, "--out", tmp_path / "out")
    assert (status, out) == (2, "")
    assert "is being written by another run" in err


def test_a_run_says_what_it_rests_on_and_notes_a_gpu_that_was_not_measured(sim: Sim, scenario: Path) -> None:
    _, out, err = sim("run", scenario)
    assert "Rests on: kernels measured on h100-sxm (held-out error" in out
    assert "; collectives measured on h100-sxm" in out
    assert "Bands: TPOT " in out
    assert err == ""
    bare = ("--set", "topology.gpus.h100-sxm.sms=66")
    _, out, err = sim("run", scenario, *bare)
    assert "note: not measured on h100-sxm: kernels of h100-sxm as shipped stand in" in err
    _, out, _ = sim("run", scenario, "--format", "json", *bare)
    basis = json.loads(out)["basis"]
    assert (basis["kernels"]["basis"], basis["collectives"]["basis"]) == ("stand-in", "measured")
    assert set(basis["bands"]) == {"mean_tpot_ms", "mean_ttft_ms", "output_throughput"}


def test_a_machine_that_is_changed_has_a_note_on_its_collectives(sim: Sim, scenario: Path) -> None:
    _, out, err = sim("run", scenario, "--set", "topology.peer_to_peer=false")
    assert "note: not measured on this machine: collectives of h100, h200 stand in" in err
    assert "collectives borrowed from" in out


@pytest.mark.parametrize("asked", ["option", "environment"])
def test_a_broken_invariant_has_a_status_of_its_own(
    sim: Sim, scenario: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    from sim.runtime.fabric.link_counters import LinkCounters

    carry = LinkCounters.carry

    def leaky(counters: LinkCounters, links: list[int], n_bytes: list[float], *more: float) -> None:
        carry(counters, links, [0.999 * one for one in n_bytes], *more)

    monkeypatch.setattr(LinkCounters, "carry", leaky)
    assert sim("run", scenario)[0] == 0
    if asked == "environment":
        monkeypatch.setenv("SIM_CHECK", "1")
    status, _, err = sim("run", scenario, *(["--check"] if asked == "option" else []))
    assert status == 71
    assert "this is a bug in fabricsim" in err
    assert "self-check: bytes broken at " in err


def test_keys_without_effect_are_noted_with_their_lines_together_and_those_that_did_not_bind_are_not(
    sim: Sim, tmp_path: Path
) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(
        GOOD.replace("engine: {tensor_parallel_size: 2}\n", "")
        + "router: nearest\nengine:\n  max_num_seqs: 64\n  expert_routing: {popularity: zipf, exponent: 2}\n"
    )
    status, out, err = sim("run", path, "--set", "engine.dispatch_dtype=fp8", "--format", "json")
    assert status == 0
    dense = "llama-3-8b has no experts"
    assert err.splitlines() == [
        f"note: {path}:5: router has no effect here: there is one replica to choose from",
        f"note: {path}:8: engine.expert_routing.popularity and exponent have no effect here: {dense}",
        "note: engine.dispatch_dtype has no effect here: llama-3-8b has no experts",
    ]
    keys = json.loads(out)["keys"]
    assert keys["did_not_bind"] == {"engine.max_num_seqs": "64, peak 1"}
    assert next(iter(keys["no_effect"])) == "router"


def test_of_many_keys_without_effect_ten_lines_are_noted(sim: Sim, scenario: Path) -> None:
    unread = {
        "router_staleness_s": 1, "hand_over.kv": "layerwise", "kv_reload": "never", "on_failure": "abort",
        "engine.pipeline_split": "even", "engine.dispatch_dtype": "bf16", "engine.enable_dbo": "true",
        "engine.host.step_s": 1, "engine.host.stage_s": 1, "precision.experts": "fp8",
        "workload.model": "llama-3-8b", "default_model": "llama-3-8b",
        "engine.inter_node": "infiniband", "engine.expert_routing.placement": "balanced",
    }  # fmt: skip
    changes = [word for key, value in unread.items() for word in ("--set", f"{key}={value}")]
    status, _, err = sim("run", scenario, *changes)
    assert status == 0
    lines = err.splitlines()
    assert len(lines) == 11
    assert (
        lines[-1] == "note: and 2 more keys have no effect: see the report (--out), or keys in --format json"
    )


def test_a_change_without_a_value_is_refused(sim: Sim, scenario: Path) -> None:
    status, _, err = sim("run", scenario, "--set", "model=")
    assert (status, err) == (2, "sim: --set 'model=' has no value; write model=VALUE, or =null for none\n")
    status, _, err = sim("run", scenario, "--percentiles", "50,,90")
    assert (status, err.count("\n")) == (2, 1)
    assert "a number is missing beside a comma" in err
