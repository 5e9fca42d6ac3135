"""What vLLM logs at start-up as left for the KV cache, beside the memory plan of the same server."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from sim.catalog import load_gpu, load_model
from sim.cost.memory import GIB, MemoryPlan, default_limits, plan
from sim.cost.shard import Shard
from sim.inputs.engine import Engine
from sim.inputs.model import Model
from sim.inputs.precision import Precision
from sim.reading.data_files import measured
from sim.reading.huggingface import model_of
from sim.results.compared import Row

KERNELS_DO_NOT_SORT = (0, 17)  # the first version of vLLM whose sampler does not sort all logits
SETTINGS = (
    "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "enable_expert_parallel",
    "gpu_memory_utilization", "max_num_batched_tokens", "max_num_seqs", "moe_backend",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StartUp:
    """One server as it was started, and what its log says of a GPU: GiB, None where it does not say tokens or
    requests of full length.
    """

    case: str
    shards: tuple[Shard, ...]
    kv_gib: float
    kv_tokens: int | None
    max_model_len: int | None
    max_concurrency: float | None
    fitted: bool
    source: str

    @property
    def limits(self) -> tuple[int, int]:
        """Sequences, and tokens of a step."""
        return default_limits(self.shards[0].engine, self.shards[0].gpu)

    @property
    def tolerance_gib(self) -> float:
        """5 % of the cache, or 1 % of the memory, whichever is larger."""
        return max(0.05 * self.kv_gib, 0.01 * self.shards[0].gpu.usable_hbm_bytes / GIB)

    def planned(self) -> MemoryPlan:
        """InfeasibleError where nothing is left."""
        return plan(list(self.shards), *self.limits)


def memory_rows() -> Iterator[Row]:
    """The rows of the ledger: GiB of the KV cache of a GPU, of servers that had any."""
    for one in start_ups():
        if one.kv_gib > 0.0:
            yield Row(
                one.case, "KV cache of a GPU", "GiB", one.kv_gib, one.planned().kv_bytes / GIB,
                "fitted" if one.fitted else "predicted", one.source, size=one.kv_gib,
            )  # fmt: skip


def start_ups() -> list[StartUp]:
    """All of `sim/data/measured/memory/vllm_startup.csv`."""
    with (measured() / "memory" / "vllm_startup.csv").open(newline="", encoding="utf-8") as lines:
        return [_start_up(row) for row in csv.DictReader(lines)]


def _start_up(row: Mapping[str, str]) -> StartUp:
    sorts = "before" in row["vllm"] or tuple(map(int, row["vllm"].split(".")))[:2] < KERNELS_DO_NOT_SORT
    written = {name: row[name] for name in SETTINGS if row[name]}
    engine = Engine.model_validate({**written, "sampler": "sort" if sorts else "kernel"})
    formats = {name: row[name] for name in ("weights", "experts", "kv_cache") if row[name]}
    what = ", ".join(f"{name} {value}" for name, value in {**formats, **written}.items())
    return StartUp(
        f"{row['model']} on {row['gpu']}, vLLM {row['vllm']}: {what}",
        tuple(_shards(_model(row["model"]), engine, Precision.model_validate(formats), row["gpu"])),
        float(row["kv_gib"]),
        int(row["kv_tokens"]) if row["kv_tokens"] else None,
        int(row["max_model_len"]) if row["max_model_len"] else None,
        float(row["max_concurrency"]) if row["max_concurrency"] else None,
        row["use"] == "fitted",
        row["source"],
    )


def _shards(model: Model, engine: Engine, precision: Precision, gpu: str) -> Iterator[Shard]:
    """The stages of a server, without places: memory asks for none."""
    stages, first = engine.pipeline_parallel_size, 0
    ranks = tuple(map(str, range(engine.tensor_parallel_size)))
    for stage in range(stages):
        layers = model.layers // stages + (stage < model.layers % stages)
        groups = (ranks,) * engine.data_parallel_size
        yield Shard(model, engine, precision, load_gpu(gpu), groups, first, layers)
        first += layers


def _model(name: str) -> Model:
    """A shipped model, or one of the shapes beside the table."""
    keys = _shapes().get(name)
    return load_model(name) if keys is None else model_of(keys, name)


@cache
def _shapes() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(
        (measured() / "memory" / "models.json").read_text(encoding="utf-8")
    )
    return found
