"""Real engines' request logs, replayed: the same requests at the same times, held request by request.

The clock of a replay starts when the engine had the first request (`queued_s`), not when the client sent it:
the API server before the engine took 20 to 130 ms, and is not what is simulated. Measured latencies are
counted from there too. Prompts are not published, only how long a prefix each shares with an earlier one;
that is always the whole of one earlier prompt (conversations that go on), so the latest earlier prompt of
that length is taken for it.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.deployment import memory_of, shards_of
from sim.reading import data_files
from sim.results.compared import Row, RowKind
from sim.scenario.scenario import Scenario
from sim.simulate import Result, simulate
from sim.validation.services.single_steps import step_rows

DATA = data_files.measured() / "serving"
BLOCK_TOKENS = 16  # of vLLM's KV cache
LOGS_SOURCE = "casys-kaist/LLMServingSim 5daddb2 (MIT), vLLM 0.19.0"

# vLLM 0.19: what a step costs beside its kernels. Fitted on one number, the mean TPOT of the log
# `rtxpro6000_llama31_8b_tp1`. (The decode steps that can be read off that log one by one, of 12 to 28
# sequences, are 1.4 ms longer than their kernels.)
VLLM_STEP_GAP_S = 1.66e-3

VLLM = {
    "max_num_batched_tokens": 2048,
    "max_model_len": 32768,
    "step_gap_s": VLLM_STEP_GAP_S,
}


@dataclass(frozen=True, slots=True)
class Service:
    """What one log was recorded on; `fitted`: a host time was, on its mean TPOT; `steps_fitted`: the rate of
    its machine's staged copies was, on the decode steps that can be read off it.
    """

    topology: str
    model: str
    engine: Mapping[str, Any]
    fitted: bool = False
    steps_fitted: bool = False


SERVICES: dict[str, Service] = {
    "rtx4090_llama31_8b_tp1": Service("rtx-4090-x4", "llama-3.1-8b", {"max_num_seqs": 256}),
    "rtxpro6000_llama31_8b_tp1": Service(
        "rtx-pro-6000-x8", "llama-3.1-8b", {"max_num_seqs": 128}, fitted=True
    ),
    "rtxpro6000_qwen3_30b_a3b_dp2ep2": Service(
        "rtx-pro-6000-x2",
        "qwen3-30b-a3b",
        {"max_num_seqs": 128, "data_parallel_size": 2, "enable_expert_parallel": True},
        steps_fitted=True,
    ),
}
KV_BLOCKS = {"rtx4090_llama31_8b_tp1": 2588}  # reported at start-up

Log = dict[str, NDArray[np.float64]]


def read_rows(name: str) -> list[dict[str, str]]:
    """Rows of a shipped sample of measured services."""
    with (DATA / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def log(run: str) -> Log:
    """Columns of one request log, in the order of its requests. KeyError for an unknown run."""
    rows = [row for row in read_rows("vllm_request_logs") if row["run"] == run]
    if not rows:
        raise KeyError(run)
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "run"}


def with_texts(columns: Log) -> Iterable[dict[str, Any]]:
    """Requests as LLMServingSim writes them, with token ids wherever prefixes are shared."""
    prompts = columns["input_tokens"].astype(int).tolist()
    shared = columns["cacheable_prefix_tokens"].astype(int).tolist()
    whole = [tokens // BLOCK_TOKENS * BLOCK_TOKENS for tokens in prompts]
    parents = {
        i: max(j for j in range(i) if whole[j] >= tokens)
        if tokens not in whole[:i]
        else max(j for j in range(i) if whole[j] == tokens)
        for i, tokens in enumerate(shared)
        if tokens
    }
    linked = {*parents, *parents.values()}
    texts: dict[int, list[int]] = {}
    for i, tokens in enumerate(prompts):
        request = {
            "arrival_time_ns": round((columns["queued_s"][i] - columns["queued_s"].min()) * 1e9),
            "input_toks": tokens,
            "output_toks": int(columns["output_tokens"][i]),
        }
        if i in linked:
            begin = texts[parents[i]][: shared[i]] if i in parents else []
            texts[i] = begin + [i * 10**6 + place for place in range(len(begin), whole[i])]
            request["input_tok_ids"] = texts[i]
        yield request


def replay(run: str, **engine: Any) -> tuple[Result, Log]:
    """Simulate the service of a log under its requests; `engine` changes knobs. Returns the log beside it."""
    service, columns = SERVICES[run], log(run)
    settings = {**VLLM, **service.engine, **engine}
    if run in KV_BLOCKS:
        settings.setdefault("num_gpu_blocks_override", KV_BLOCKS[run])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requests.jsonl"
        path.write_text("\n".join(map(json.dumps, with_texts(columns))) + "\n", encoding="utf-8")
        scenario = Scenario.model_validate(
            {
                "topology": service.topology,
                "model": service.model,
                "engine": settings,
                "workload": {"arrivals": {"kind": "trace", "path": str(path)}},
            }
        )
        return simulate(scenario), columns


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds of each request, in one order, and of the whole run."""

    ttft: NDArray[np.float64]
    tpot: NDArray[np.float64]
    e2e: NDArray[np.float64]
    makespan: float


def measured(columns: Log) -> Latencies:
    """Latencies of a log, from when the engine had each request; in order of that."""
    order = np.argsort(columns["queued_s"], kind="stable")
    queued, first, last = (columns[name][order] for name in ("queued_s", "first_token_s", "last_token_s"))
    further = np.maximum(columns["output_tokens"][order] - 1, 1)
    return Latencies(
        first - queued, (last - first) / further, last - queued, float(last.max() - queued.min())
    )


def simulated(result: Result) -> Latencies:
    """The same of a replay."""
    rows = result.requests
    arrival, first, last = (rows[name].to_numpy() for name in ("arrival_s", "first_token_s", "finished_s"))
    further = np.maximum(rows["output_tokens"].to_numpy() - 1, 1)
    return Latencies(first - arrival, (last - first) / further, last - arrival, float(last.max()))


def log_rows(run: str) -> list[Row]:
    """What is held of one log: means, makespan, how well single requests are met, and single decode steps."""
    result, columns = replay(run)
    real, ours = measured(columns), simulated(result)
    kind: RowKind = "fitted" if SERVICES[run].fitted else "predicted"
    rows = [
        _row(run, "mean TTFT", "s", float(real.ttft.mean()), float(ours.ttft.mean())),
        _row(run, "mean TPOT", "ms", float(real.tpot.mean()) * 1e3, float(ours.tpot.mean()) * 1e3, kind),
        _row(run, "mean E2E", "s", float(real.e2e.mean()), float(ours.e2e.mean())),
        _row(run, "makespan", "s", real.makespan, ours.makespan),
    ]
    for name, theirs, mine in (("TTFT", real.ttft, ours.ttft), ("E2E", real.e2e, ours.e2e)):
        rows += [
            _row(run, f"correlation of {name} by request", "", None, float(np.corrcoef(theirs, mine)[0, 1])),
            _row(
                run,
                f"median |error| of {name} by request",
                "",
                None,
                float(np.median(np.abs(mine / theirs - 1))),
            ),
        ]
    if run in KV_BLOCKS:
        rows.append(_row(run, "KV blocks", "blocks", KV_BLOCKS[run], planned_blocks(run), "fitted"))
    return rows + log_steps(run)


def _row(
    run: str, quantity: str, unit: str, published: float | None, ours: float, kind: RowKind = "predicted"
) -> Row:
    return Row(run, quantity, unit, published, ours, kind, LOGS_SOURCE)


def planned_blocks(run: str) -> int:
    """KV blocks that the memory plan of a log's service leaves."""
    scenario = _service_alone(run)
    pool = next(iter(scenario.all_pools.values()))
    gpus = tuple(scenario.topology.graph.graph["gpus"][: pool.engine.world_size])
    return memory_of(pool, shards_of(pool, scenario, gpus))[0].blocks


def log_steps(run: str) -> list[Row]:
    """Decode steps that can be read off the seconds of a log in which no prompt was computed; none of a log
    with preemptions.
    """
    if run in KV_BLOCKS:
        return []
    seconds = [row for row in read_rows("vllm_timeseries") if row["run"] == run]
    rows = step_rows(run, _service_alone(run), log(run), seconds, LOGS_SOURCE)
    return [replace(row, kind="fitted") for row in rows] if SERVICES[run].steps_fitted else rows


def _service_alone(run: str) -> Scenario:
    service = SERVICES[run]
    one = {"arrivals": {"kind": "burst"}, "prompt_tokens": 1, "output_tokens": 1, "requests": 1}
    return Scenario.model_validate(
        {
            "topology": service.topology,
            "model": service.model,
            "engine": {**VLLM, **service.engine},
            "workload": one,
        }
    )
