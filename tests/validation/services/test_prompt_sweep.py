"""vLLM on H200 at prompts of growing length: shipped, and left out as a whole."""

from statistics import median

from sim.validation.services.prompt_sweep import CONTAMINATED, sweep_left_out
from sim.validation.services.request_logs import read_rows
from sim.validation.services.tables import cases, left_out

MINIMAX = "MiniMaxAI/MiniMax-M2.5"


def test_no_row_is_in_the_ledger_and_every_row_is_counted_with_its_reason():
    assert not [case for case in cases("services", whole=True) if case.table == "vllm_h200_prompt_sweep"]
    counted = {one.reason: one for one in left_out() if one.table == "vLLM, 8 H200, prompts of 1k to 32k"}
    assert sum(one.rows for one in counted.values()) == counted[CONTAMINATED].of == 123


def test_the_same_model_on_the_same_gpus_was_measured_seven_times_faster():
    """8,192 tokens, four users, eight ranks."""
    sweep = [
        float(row["median_ttft_ms"])
        for row in read_rows("vllm_h200_prompt_sweep")
        if (row["model"], row["parallelism"], row["isl"]) == (MINIMAX, "tep8", "8192")
        and row["concurrency"] == "4"
    ]
    loops = [
        float(row["ttft_ms"])
        for row in read_rows("closed_loops")
        if (row["model"], row["system"], row["tp_size"], row["isl"], row["concurrency"])
        == (MINIMAX, "h200_sxm", "8", "8192", "4")
    ]
    assert 7.0 < median(sweep) / median(loops) < 7.5
    shortest = (
        float(row["median_ttft_ms"]) for row in read_rows("vllm_h200_prompt_sweep") if row["model"] == MINIMAX
    )
    assert min(shortest) > 440.0


def test_models_without_a_description_are_left_out_with_the_reason():
    assert "sparse attention" in sweep_left_out({"model": "zai-org/GLM-5-FP8"})
    assert "linear attention" in sweep_left_out({"model": "Qwen/Qwen3.5-397B-A17B"})
