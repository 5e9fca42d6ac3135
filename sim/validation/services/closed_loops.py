"""Measured serving points as scenarios: closed loops at a concurrency on one server, and what they gave.

A row is one engine configuration at one concurrency, as InferenceX (SemiAnalysis) and NVIDIA's aiconfigurator
publish them: mean time to first token and mean time per output token. How the engines were started is not in
the rows; it is taken from InferenceX's launch scripts where a row comes from there, and from the engine's
defaults elsewhere.

Where it stops: the source does not say whether its numbers are means or medians, nor which build of an
engine half of the rows had. Throughput is not in the rows; it is what concurrency, lengths and the two times
amount to, on both sides of the comparison.

Attention data-parallel rows come in two writings of the same runs: DeepSeek-R1 on eight H200 with 128 users
stands there as 8 ranks with 1 x 8 experts and as 64 ranks with 8 x 8, to the same millisecond. The second is
the product of the engine's two sizes; it is meant where it is more than a server has, and the first of them
is the GPUs. Rows of MiniMax-M2.5 that name data-parallel attention on TP 4 are no such runs: their script
gives vLLM its tensor-parallel size alone, and where the layout was also measured without, both agree
to half a percent. They are taken for TP 4 with experts over its four ranks.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.catalog import load_model, load_topology
from sim.inputs.errors import InputError, Problem, UnfinishedError
from sim.inputs.topology import Topology
from sim.reading.problems import did_you_mean
from sim.reading.published_names import MODELS, SYSTEMS
from sim.reading.text_files import text_of
from sim.scenario.scenario import Scenario
from sim.simulate import simulate

if TYPE_CHECKING:
    import polars

BLOCK_FP8 = (  # how these checkpoints are published
    "Qwen/Qwen3-235B-A22B-FP8", "MiniMaxAI/MiniMax-M2.5", "deepseek-ai/DeepSeek-V3",
    "deepseek-ai/DeepSeek-V3.1", "deepseek-ai/DeepSeek-R1-0528", "DeepSeek-R1-0528",
)  # fmt: skip
WEIGHTS = {"fp8": "fp8", "fp8_block": "fp8_block", "nvfp4": "nvfp4", "": "bf16"}
FLAGS = ("suspect_parallelism", "mtp_unknown", "nonmonotonic")
PROMPTS = 10  # times the concurrency: InferenceX's benchmark client
HOSTS: dict[str, dict[str, float]] = {
    "vllm": {"step_gap_s": 0.39e-3, "frontend_s": 20e-3, "frontend_token_s": 2e-6},
    "trtllm": {"step_gap_s": 0.31e-3, "frontend_s": 25e-3, "frontend_token_s": 2e-6},
    "sglang": {"step_gap_s": 0.97e-3, "frontend_s": 54e-3, "frontend_token_s": 9e-6},
}
"""What an engine's host costs: between two steps, and on the way in. One set each, the only thing here that
is fitted, on one model and system (`FITTED_ON`): the gap by the median of the signed errors of TPOT, the
way in by the smallest median error of TTFT on a grid of 5 ms and 2 us a token (SGLang: by least squares).
`sim calibrate hosts` gives the gaps again; no command writes the way in."""
FITTED_ON = {
    "vllm": ("openai/gpt-oss-120b", "b200_sxm"),
    "trtllm": ("openai/gpt-oss-120b", "b200_sxm"),
    "sglang": ("Qwen/Qwen3-32B", "h100_sxm"),
}
ASYNC_FROM = (0, 14)  # vLLM schedules ahead by default from this release on
KERNEL_SAMPLER_FROM = (0, 17)  # vLLM samples without sorting all logits from this release on
SPREAD = 0.1  # assumed: answers of NVIDIA's runs, after a look at their times to first token
ROUNDS = 4  # times the concurrency, simulated; weighed as if they were `PROMPTS`


def throughput_of(users: int, output_tokens: float, ttft_ms: float, tpot_ms: float) -> float:
    """Output tokens per second of so many users that are never idle."""
    return 1e3 * users * output_tokens / (ttft_ms + (output_tokens - 1.0) * tpot_ms)


@dataclass(frozen=True)
class ServingPoint:
    """One row: a configuration, a concurrency, and the milliseconds that were measured."""

    system: str
    model: str
    precision: str
    backend: str
    version: str
    isl: int
    osl: int
    concurrency: int
    tp: int
    attention_dp: int
    expert_parallel: bool
    ttft_ms: float
    tpot_ms: float
    origin: str
    is_clean: bool

    @property
    def is_inferencex(self) -> bool:
        return "InferenceX" in self.origin

    @property
    def output_tokens(self) -> float:
        """Mean length of an answer: InferenceX draws from 0.8 to 1 of `osl`."""
        return 0.9 * self.osl if self.is_inferencex else float(self.osl)

    @property
    def is_fitted(self) -> bool:
        """Whether the host set of its engine was fitted on this row."""
        return FITTED_ON.get(self.backend) == (self.model, self.system)

    @property
    def label(self) -> str:
        return (
            f"{MODELS.get(self.model, self.model)} {self.precision or 'bf16'}, {self.system} TP{self.tp}"
            f"{f' DP{self.attention_dp}' if self.attention_dp > 1 else ''}, "
            f"{self.backend}, {self.isl}/{self.osl}, {self.concurrency} users"
        )

    def throughput(self, ttft_ms: float, tpot_ms: float) -> float:
        """Output tokens per second of all users, from the two times."""
        return throughput_of(self.concurrency, self.output_tokens, ttft_ms, tpot_ms)


@dataclass(frozen=True)
class Simulated:
    """What a run gave for a point, in milliseconds."""

    point: ServingPoint
    ttft_ms: float
    tpot_ms: float

    @property
    def tpot_error(self) -> float:
        return self.tpot_ms / self.point.tpot_ms - 1.0

    @property
    def ttft_error(self) -> float:
        return self.ttft_ms / self.point.ttft_ms - 1.0

    @property
    def throughput_error(self) -> float:
        point = self.point
        measured = point.throughput(point.ttft_ms, point.tpot_ms)
        return point.throughput(self.ttft_ms, self.tpot_ms) / measured - 1.0


def read_points(path: Path, *, clean: bool = True) -> list[ServingPoint]:
    """The rows of a table of serving points; by default those without a quality flag.

    InputError if it lacks a column.
    """
    return [point_of(row) for row in read_point_rows(path, clean=clean)]


def read_point_rows(path: Path, *, clean: bool = True) -> list[dict[str, str]]:
    """The same as they are written. InputError names file, line and column of a cell that cannot be."""
    table = csv.DictReader(text_of(path, "a table of closed loops", MAX_TABLE_BYTES).splitlines())
    try:
        rows = [(table.line_num, row) for row in table]
    except csv.Error as error:
        raise InputError(Problem(str(error), str(path), table.line_num)) from error
    if not rows:
        raise InputError(Problem("has no rows", str(path)))
    for column in COLUMNS:
        if column not in (table.fieldnames or ()):
            raise InputError(f"{path} has no column {column!r}; a table of closed loops has it")
    for line, row in rows:
        for column in COLUMNS:
            if what := _wrong_cell(column, row[column]):
                raise InputError(Problem(what, str(path), line, column, repr(row[column])))
    return [row for _, row in rows if point_of(row).is_clean or not clean]


MAX_TABLE_BYTES = 50_000_000
NAMES: dict[str, Collection[str]] = {"system": SYSTEMS, "model": MODELS, "backend": HOSTS}
FORMATS = ("gemm_quant_mode", "moe_quant_mode")
COUNTS = ("isl", "osl", "concurrency", "tp_size")
RANKS = ("attention_dp_size", "moe_tp_size", "moe_ep_size")  # may be blank or zero
TIMES_MS = ("ttft_ms", "tpot_ms")
COLUMNS = (*NAMES, "backend_version", *COUNTS, *RANKS, *FORMATS, *TIMES_MS, "origin")
MOST = 1_000_000  # tokens, users and ranks of a measured service


def _wrong_cell(column: str, cell: str | None) -> str:
    """What is wrong with a cell; nothing for one that is in order."""
    if cell is None:
        return "the row ends before this column"
    if column in NAMES and cell not in NAMES[column]:
        known = NAMES[column]
        return f"must be one of {', '.join(known)}{did_you_mean(cell, known)}"
    if column in FORMATS and cell not in WEIGHTS:
        return f"must be one of {', '.join(filter(None, WEIGHTS))}, or blank for bf16"
    if column in COUNTS and not (_is_count(cell) and int(cell) >= 1):
        return f"must be a whole number from 1 to {MOST}"
    if column in RANKS and cell and not _is_count(cell):
        return f"must be a whole number from 0 to {MOST}, or blank"
    if column in TIMES_MS and not _is_time(cell):
        return "must be milliseconds above 0"
    return ""


def _is_count(cell: str) -> bool:
    return cell.isascii() and cell.isdecimal() and len(cell) <= 9 and int(cell) <= MOST


def _is_time(cell: str) -> bool:
    try:
        return 0.0 < float(cell) < math.inf
    except ValueError:
        return False


def point_of(row: Mapping[str, str]) -> ServingPoint:
    """A row of such a table."""
    quant = row["moe_quant_mode"] or row["gemm_quant_mode"]
    return ServingPoint(
        system=row["system"],
        model=row["model"],
        precision=quant,
        backend=row["backend"],
        version=row["backend_version"],
        isl=int(row["isl"]),
        osl=int(row["osl"]),
        concurrency=int(row["concurrency"]),
        tp=int(row["tp_size"]),
        attention_dp=_attention_ranks(row),
        expert_parallel=int(row["moe_ep_size"] or 1) > 1,
        ttft_ms=float(row["ttft_ms"]),
        tpot_ms=float(row["tpot_ms"]),
        origin=row["origin"],
        is_clean=all(row.get(flag, "0") == "0" for flag in FLAGS),
    )


def _attention_ranks(row: Mapping[str, str]) -> int:
    """Data-parallel ranks of the attention (the docstring above says how rows write them)."""
    tp, named = int(row["tp_size"]), int(row["attention_dp_size"] or 0)
    split, spread = int(row["moe_tp_size"] or 1), int(row["moe_ep_size"] or 1)
    if not row["attention_dp_size"]:  # more ranks for the experts than for a head mean it
        return max(1, split * spread // tp)
    if named <= 1 or tp == named:
        return 1
    most = _topology(SYSTEMS[row["system"]]).gpus_per_node
    return split if tp * named > most and split * spread == named else named


# ---- as a scenario


@cache
def _topology(name: str) -> Topology:
    return load_topology(name)


def precision_of(point: ServingPoint) -> dict[str, str]:
    """Number formats of a row: its own, or what its checkpoint and launch script say."""
    weights = (
        "fp8_block" if point.model in BLOCK_FP8 and point.precision == "fp8" else WEIGHTS[point.precision]
    )
    formats = {"weights": weights, "kv_cache": "bf16"}
    if point.model == "openai/gpt-oss-120b":
        # 4-bit experts, all else 16 bits; Hopper has no 4-bit arithmetic and expands them in the kernel
        formats = {
            "weights": "bf16",
            "experts": "w4a8" if point.system == "b200_sxm" else "w4a16",
            "kv_cache": "bf16",
        }
    if point.backend == "trtllm" and (point.model.startswith("nvidia/") or "Llama-3.1-70B" in point.model):
        formats["activation_scales"] = "static"  # as NVIDIA's Model Optimizer publishes them
    if _has_8bit_cache(point):
        formats["kv_cache"] = "fp8"
        if point.backend == "trtllm":
            formats["attention"] = "fp8"
    return formats


def _has_8bit_cache(point: ServingPoint) -> bool:
    """InferenceX starts Llama and, on Blackwell, gpt-oss with `kv-cache-dtype: fp8`; TensorRT-LLM takes 8
    bits for a checkpoint in 8 or 4 bits.
    """
    if point.backend == "trtllm":
        return point.precision != ""
    if not point.is_inferencex:
        return False
    return "Llama" in point.model or (point.model.startswith("openai") and point.system == "b200_sxm")


def engine_of(point: ServingPoint) -> dict[str, Any]:
    """How the engine was started."""
    trtllm, llama = point.backend == "trtllm", "Llama-3.1-70B" in point.model
    engine: dict[str, Any] = {
        "backend": point.backend,
        "tensor_parallel_size": point.tp,
        "data_parallel_size": point.attention_dp,
        "enable_expert_parallel": point.expert_parallel,
        "enable_prefix_caching": False,
        "max_num_seqs": max(512, point.concurrency),
        "max_num_batched_tokens": 8192,
        "max_cudagraph_capture_size": 2048,
        "async_scheduling": point.is_inferencex or point.backend != "vllm" or _release(point) >= ASYNC_FROM,
    }
    if point.backend == "vllm" and _release(point) >= KERNEL_SAMPLER_FROM:
        engine["sampler"] = "kernel"
    if trtllm:  # prompts are computed whole, so the longest text must fit
        engine["enable_chunked_prefill"] = False
        engine["max_num_batched_tokens"] = max(8192, point.isl + 2 * point.osl)
        engine["capacity_scheduler_policy"] = "guaranteed_no_evict"
    if trtllm and point.is_inferencex:
        engine["max_num_batched_tokens"] = 16384
        if llama and point.isl == point.osl == 1024 and point.tp < 8:
            engine["batch_wait_timeout_iters"] = 20
    if point.backend == "sglang":
        engine["scheduler"] = "continuous"
    return engine


def _release(point: ServingPoint) -> tuple[int, ...]:
    parts = point.version.split(".")
    return tuple(int(part) for part in parts if part.isdecimal()) if len(parts) > 1 else ASYNC_FROM


def _lengths(point: ServingPoint) -> tuple[Any, Any]:
    """Laws of prompts and answers. With equal answers all users stay in lock-step, as SGLang's rows show it;
    the first tokens of NVIDIA's other rows come sooner than that allows, and get `SPREAD`.
    """

    def uniform(low: float, high: float) -> Any:
        return {"kind": "uniform", "low": max(1, int(low)), "high": int(high)}

    isl, osl = point.isl, point.osl
    if point.is_inferencex:
        return uniform(0.8 * isl, isl), uniform(0.8 * osl, osl)
    if point.backend == "sglang":
        return isl, osl
    return isl, uniform((1.0 - SPREAD) * osl, (1.0 + SPREAD) * osl)


def scenario_of(point: ServingPoint, engine: dict[str, Any] | None = None, rounds: int = ROUNDS) -> Scenario:
    """The row as a scenario. `engine`: settings over those of the row's backend."""

    prompt, answer = _lengths(point)
    return Scenario.model_validate(
        {
            "name": point.label,
            "topology": _topology(SYSTEMS[point.system]),
            "model": load_model(MODELS[point.model]),
            "precision": precision_of(point),
            "engine": engine_of(point) | HOSTS.get(point.backend, {}) | (engine or {}),
            "workload": {
                "arrivals": {"kind": "closed_loop", "users": point.concurrency},
                "prompt_tokens": prompt,
                "output_tokens": answer,
                "requests": rounds * point.concurrency,
            },
        }
    )


def run(point: ServingPoint, engine: dict[str, Any] | None = None, rounds: int = ROUNDS) -> Simulated:
    """Simulate a row; what it says of a run of `PROMPTS` rounds is weighed from fewer."""
    requests = simulate(scenario_of(point, engine, rounds)).requests
    return Simulated(point, *weighed_ms(requests, point.concurrency))


def weighed_ms(requests: polars.DataFrame, users: int) -> tuple[float, float]:
    """Mean time to first token and per output token of a closed loop, in milliseconds. The first round
    arrives at once and the last one drains: each counts one in `PROMPTS`. UnfinishedError if a request has
    no end.
    """
    refused = requests.filter(requests["finished_s"].is_null())
    if len(refused):
        raise UnfinishedError(
            f"{len(refused)} of {len(requests)} requests did not finish: {refused['status'][0]}"
        )
    frame = requests.sort("request_id")
    ttft_s = (frame["first_token_s"] - frame["arrival_s"]).to_numpy()
    tpot_s = (
        (frame["finished_s"] - frame["first_token_s"]) / (frame["output_tokens"] - 1).clip(1)
    ).to_numpy()
    n = len(ttft_s)
    weights = np.ones(n)
    if n > 2 * users:
        weights[users : n - users] = (PROMPTS - 2) / (n / users - 2)
    return 1e3 * float(np.average(ttft_s, weights=weights)), 1e3 * float(np.average(tpot_s, weights=weights))
