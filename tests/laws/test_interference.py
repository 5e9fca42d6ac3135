"""What prompts of others add to a request's steps: charged to `interference`, and to nothing else."""

from __future__ import annotations

import json
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.cost.batch import Causes
from sim.results.blame import CAUSES
from sim.scenario.scenario import Scenario
from sim.simulate import Result, simulate
from tests.laws.folded_and_played import differences
from tests.laws.test_serving import assert_causes_add_up

GIVEN = {"service_time": {"step_s": 1.0, "token_s": 0.01}, "async_scheduling": False}


def of_trace(folder: Path, lines: list[tuple[float, int, int]], engine: dict[str, Any]) -> dict[str, Any]:
    """Requests of (arrival, prompt, output)."""
    names = count()
    rows: list[dict[str, Any]] = []
    for at_s, prompt, output in lines:  # no two prompts share a block
        blocks = list(islice(names, -(-prompt // 512)))
        rows.append({"timestamp": 1e3 * at_s, "input_length": prompt, "output_length": output})
        rows[-1]["hash_ids"] = blocks
    path = folder / f"{len(lines)} requests.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "topology": "a100-x4",
        "model": "llama-3-8b",
        "engine": {"max_num_seqs": 8, **engine},
        "workload": {"arrivals": {"kind": "trace", "path": str(path)}},
    }


def blamed(data: dict[str, Any]) -> tuple[Result, np.ndarray]:
    result = simulate(Scenario.model_validate(data))
    assert_causes_add_up(result)
    return result, result.blame.select(CAUSES).to_numpy()


COLUMN = {cause: number for number, cause in enumerate(CAUSES)}


def test_a_decode_is_charged_interference_for_the_chunks_in_its_steps(tmp_path: Path) -> None:
    """Steps of 1 s and 10 ms a token. The prompt of 120 tokens comes in chunks of 49, beside the decode."""
    lines = [(0.0, 10, 8), (2.5, 120, 1)]
    _, blame = blamed(of_trace(tmp_path, lines, {**GIVEN, "max_num_batched_tokens": 50}))
    assert blame[0, COLUMN["interference"]] == pytest.approx(1.20)
    assert blame[0, COLUMN["decode_compute"]] == pytest.approx(7 * 1.01)
    assert blame[1, COLUMN["interference"]] == pytest.approx(0.0, abs=1e-12)


def test_prompts_in_one_step_are_charged_for_each_others_tokens(tmp_path: Path) -> None:
    _, blame = blamed(of_trace(tmp_path, [(0.0, 30, 1), (0.0, 10, 1)], GIVEN))
    assert blame[:, COLUMN["prefill_compute"]] == pytest.approx([1.30, 1.10])
    assert blame[:, COLUMN["interference"]] == pytest.approx([0.10, 0.30])


def test_a_decode_that_pauses_for_prompts_is_charged_interference_for_all_of_their_step(
    tmp_path: Path,
) -> None:
    engine = {**GIVEN, "scheduler": "continuous"}
    _, blame = blamed(of_trace(tmp_path, [(0.0, 10, 8), (2.5, 120, 1)], engine))
    assert blame[0, COLUMN["interference"]] == pytest.approx(1.0 + 1.20)
    assert blame[0, COLUMN["decode_compute"]] == pytest.approx(7 * 1.01)


def test_a_prompt_whose_turn_others_take_is_charged_interference_for_their_steps(tmp_path: Path) -> None:
    """A budget of 64: the first prompt takes 60 tokens of every step but its last, and the rest of the
    step is left for the second one.
    """
    engine = {**GIVEN, "max_num_batched_tokens": 64, "long_prefill_token_threshold": 60}
    _, blame = blamed(of_trace(tmp_path, [(0.0, 120, 1), (0.0, 100, 1)], engine))
    # Steps (tokens of the first, of the second): (60, 4), (60, 4), (0, 60), (0, 32).
    assert blame[1, COLUMN["interference"]] == pytest.approx(1.20)
    assert blame[0, COLUMN["interference"]] == pytest.approx(0.08)


@pytest.mark.parametrize("ranks", [1, 2])
def test_without_interference_a_decode_has_the_causes_that_it_has_alone(tmp_path: Path, ranks: int) -> None:
    """The second request is a prompt and its token: it decodes in no step of the first."""
    engine = {"tensor_parallel_size": ranks, "async_scheduling": False, "max_num_batched_tokens": 1024}
    _, both = blamed(of_trace(tmp_path, [(0.0, 200, 200), (0.5, 4000, 1)], engine))
    _, alone = blamed(of_trace(tmp_path, [(0.0, 200, 200)], engine))
    parts = [COLUMN[cause] for cause in ("prefill_compute", "decode_compute", *Causes._fields[1:])]
    assert both[0, parts] == pytest.approx(alone[0, parts], rel=1e-9, abs=1e-12)
    assert both[0, COLUMN["interference"]] > 0.1
    assert both[0].sum() == pytest.approx(alone[0].sum() + both[0, COLUMN["interference"]], rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [
        {},
        {"pipeline_parallel_size": 2},
        {"data_parallel_size": 2},
        {"scheduler": "continuous"},
        {"num_gpu_blocks_override": 60},
    ],
    ids=str,
)
def test_a_folded_run_has_the_interference_of_a_played_one(engine: dict[str, Any]) -> None:
    found, result = differences(
        {
            "topology": "a100-x4",
            "model": "llama-3-8b",
            "engine": {"max_num_seqs": 16, "max_num_batched_tokens": 256, **engine},
            "workload": {
                "arrivals": {"kind": "poisson", "rate_per_s": 200.0},
                "prompt_tokens": {"kind": "uniform", "low": 10, "high": 300},
                "output_tokens": {"kind": "uniform", "low": 1, "high": 40},
                "requests": 30,
            },
        }
    )
    assert not found
    assert result.blame["interference"].sum() > 0.0
    assert_causes_add_up(result)


def test_the_only_request_suffers_no_interference(tmp_path: Path) -> None:
    _, blame = blamed(of_trace(tmp_path, [(0.0, 3000, 20)], {"max_num_batched_tokens": 512}))
    assert blame[0, COLUMN["interference"]] == 0.0
