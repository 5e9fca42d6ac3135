"""vLLM services under the requests of a trace."""

import pytest

from sim.validation.services import request_logs
from sim.validation.services.tables import published
from sim.validation.services.trace_replay import per_second_rows


def test_tokens_of_all_seconds_of_a_run_are_the_tokens_of_its_requests():
    rows = [row for row in published("vllm_h100_a6000_per_second") if row.cells["run"] == "h100_single_moe"]
    tokens = sum(per_second_rows({**rows[0].cells, "time_s": str(t)})[0].simulated for t in range(100))
    asked = [one for one in request_logs.read_rows("vllm_h100_workloads") if one["workload"] == "mixtral"]
    assert tokens == pytest.approx(sum(int(one["output_tokens"]) for one in asked))


@pytest.mark.slow
def test_the_run_that_the_host_was_fitted_on_is_tagged_so_in_every_second() -> None:
    rows = {row["run"]: row for row in request_logs.read_rows("vllm_h100_a6000_per_second")}
    kinds = {run: per_second_rows(row)[0].kind for run, row in rows.items() if run.startswith("h100")}
    assert kinds == {
        "h100_single_dense_prefix_cache": "fitted",
        "h100_two_instances_dense": "predicted",
        "h100_single_moe": "predicted",
    }
