"""Static batches of 2023."""

from sim.validation.services.static_batches import SPLITWISE_FITTED, static_batch_left_out, static_batch_rows
from sim.validation.services.tables import cases


def test_a_static_batch_has_a_time_of_its_prompts_and_one_of_its_tokens():
    static = [case.cells for case in cases("services", whole=True) if case.table == "splitwise_static_batch"]
    first = static_batch_rows(static[0])
    assert [row.quantity for row in first] == ["prompt time", "token time"]


def test_only_the_token_time_of_batch_1_at_tp_8_is_fitted_and_large_batches_have_no_prompt_time():
    row = {
        "model": "llama2-70b", "hardware": "h100-80gb", "tensor_parallel": "8", "batch_size": "1",
        "prompt_size": "512", "token_size": "128", "prompt_ms": "100", "token_ms": "30",
    }  # fmt: skip
    assert (row["tensor_parallel"], row["batch_size"]) == SPLITWISE_FITTED
    assert [one.kind for one in static_batch_rows(row)] == ["predicted", "fitted"]
    large = static_batch_rows({**row, "batch_size": "64"})
    assert [(one.quantity, one.kind) for one in large] == [("token time", "predicted")]
    assert static_batch_left_out({**row, "model": "bloom-176b"}).startswith("bloom-176b")
