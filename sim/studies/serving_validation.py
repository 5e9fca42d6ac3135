"""Services as they were measured, beside the simulator: every row of the ledger that is about serving.

What is fitted: the host's time per step, one number an engine (vLLM 0.19: the mean TPOT of one request log;
vLLM on H100: the mean TPOT of one service; the loop of 2023: the token time of batch 1 at TP 8 on each
host; TensorRT-LLM: nothing), and the KV blocks of one GPU. Everything else is predicted: from kernels and
collectives that were measured one by one, and from the scheduler.
"""

from __future__ import annotations

from collections.abc import Iterator

from sim.studies.ledger import LedgerRow
from sim.studies.serving_logs import SERVICES, log_rows, read_rows
from sim.studies.serving_tables import (
    MODELS_OF_STATIC_BATCHES,
    left_out,
    max_throughput_rows,
    online_rows,
    reason_left_out,
    static_batch_rows,
    vllm_h100_rows,
)

QUICK_EVERY = {"static": 12, "online": 8, "max_throughput": 90}


def serving_rows(*, quick: bool = False) -> Iterator[LedgerRow]:
    """All rows, as they are simulated: some minutes, the throughput table most of them; `quick` takes a
    sample of each table, spread evenly over its rows, in well under a minute.
    """
    for run in SERVICES:
        yield from log_rows(run)
    yield from vllm_h100_rows()
    every = QUICK_EVERY if quick else dict.fromkeys(QUICK_EVERY, 1)
    yield from static_batch_rows(_static()[:: every["static"]])
    yield from online_rows(read_rows("trtllm_online_serving")[:: every["online"]])
    told = [row for row in read_rows("trtllm_max_throughput") if not reason_left_out(row)]
    yield from max_throughput_rows(told[:: every["max_throughput"]])


def not_expressed() -> dict[str, int]:
    """How many published rows are left out, by reason."""
    static = read_rows("splitwise_static_batch")
    counted = left_out(read_rows("trtllm_max_throughput"))
    counted["bloom-176b (ALiBi, no gated MLP) has no model description here"] = len(static) - len(_static())
    return counted


def _static() -> list[dict[str, str]]:
    return [row for row in read_rows("splitwise_static_batch") if row["model"] in MODELS_OF_STATIC_BATCHES]
