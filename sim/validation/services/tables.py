"""Services as they were measured, beside the simulator: every table of them that travels with the package.

What is fitted: the host's time per step, one number an engine (vLLM 0.19: the mean TPOT of one request log;
vLLM on H100: the mean TPOT of one service; the loop of 2023: the token time of batch 1 at TP 8 on each
host; one host set an engine of closed loops, `closed_loops`; TensorRT-LLM: nothing), and the KV blocks of
one GPU. Everything else is predicted: from kernels and collectives that were measured one by one, and from
the scheduler. `host_fits` fits the steps, gaps and launches anew, but for those of the request logs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

from sim.inputs.errors import InputError, Problem
from sim.reading.problems import unknown_name
from sim.reading.published_names import MODELS, SYSTEMS
from sim.results.basis import users_band
from sim.results.compared import BOX, Row
from sim.validation.checkpoint import Case, Outcome
from sim.validation.services import (
    disaggregated,
    offered_rate,
    offline_throughput,
    prompt_sweep,
    static_batches,
    trace_replay,
)
from sim.validation.services.cells import gpu_of, kind_of_model
from sim.validation.services.closed_loop_rows import rows_of_point
from sim.validation.services.closed_loops import point_of
from sim.validation.services.cold_starts import REASON, cold_starts, row_key
from sim.validation.services.published_rows import Cells
from sim.validation.services.request_logs import SERVICES, log_rows, read_rows

LOOPS = "closed-loops"


NO_ROOM = "weights or one request do not fit by the simulator's memory plan"


def _nothing(row: Cells) -> str:
    return ""


def _none(row: Cells) -> list[Row]:
    """The rows of a table that is left out as a whole."""
    return []


def _box_in(column: str) -> Callable[[Cells], str]:
    """The topology that stands for what a column names."""
    return lambda row: SYSTEMS[row[column]]


def _one_box(name: str) -> Callable[[Cells], str]:
    return lambda row: name


@dataclass(frozen=True)
class Table:
    """A published table: its section of the ledger, what it is of, how a row of it is simulated, on which
    topology, why one cannot be, how a sample of it is taken (every so many rows, or those that the table
    marks, without rows that are `dear`), and what errors of a row are grouped by, of tables that have such
    cells.
    """

    section: str
    title: str
    rows_of: Callable[[Cells], list[Row]]
    box: Callable[[Cells], str]
    left_out: Callable[[Cells], str] = _nothing
    every: int = 1
    dear: Callable[[Cells], bool] = lambda row: False
    cell: Callable[[Cells], dict[str, str]] | None = None


DEAR_TOKENS = 1_000_000  # generated at once: several seconds a row


def _cell_of(row: Cells, system: str, engine: str, users: str = "") -> dict[str, str]:
    """Kind of model, engine, GPU and band of users of a row that has not been simulated."""
    of = {"model": kind_of_model(MODELS[row["model"]]), "engine": engine, "gpu": gpu_of(SYSTEMS[system])}
    return of | ({"users": users_band(int(users))} if users else {})


@cache
def _cold_rows(name: str) -> set[Hashable]:
    return cold_starts(read_rows(name))


def _cold(name: str, row: Cells) -> str:
    return REASON if row_key(row) in _cold_rows(name) else ""


TABLES = {
    "request_logs": Table(
        "services",
        "vLLM 0.19, requests of a log",
        lambda row: log_rows(row["run"]),
        lambda row: SERVICES[row["run"]].topology,
    ),
    "vllm_h100_means": Table(
        "services", "vLLM, H100, ShareGPT at 10/s", trace_replay.vllm_mean_rows, _one_box("nd-h100-v5")
    ),
    "vllm_h100_a6000_per_second": Table(
        "services",
        "vLLM, H100 and A6000, second by second",
        trace_replay.per_second_rows,
        _one_box("nd-h100-v5"),
        trace_replay.per_second_left_out,
        30,
    ),
    "splitwise_static_batch": Table(
        "services",
        "static batches of 2023",
        static_batches.static_batch_rows,
        _box_in("hardware"),
        static_batches.static_batch_left_out,
        12,
    ),
    "trtllm_online_serving": Table(
        "services", "TensorRT-LLM 0.14 at an offered rate", offered_rate.online_rows, _box_in("gpu"), every=8
    ),
    "vllm_h200_prompt_sweep": Table(
        "services",
        "vLLM, 8 H200, prompts of 1k to 32k",
        _none,
        _one_box("hgx-h200"),
        prompt_sweep.sweep_left_out,
    ),
    "trtllm_max_throughput": Table(
        "throughput",
        "TensorRT-LLM, all queued at once",
        offline_throughput.throughput_rows,
        _box_in("gpu"),
        offline_throughput.throughput_left_out,
        40,
        lambda row: int(row["pp"] or 1) > 1,  # thousands of requests through stages: half a minute a row
        lambda row: _cell_of(row, row["gpu"], "trtllm"),
    ),
    "disaggregated": Table(
        "pools",
        "InferenceX, prefill and decode apart",
        disaggregated.pool_rows,
        _box_in("system"),
        lambda row: disaggregated.pools_left_out(row) or _cold("disaggregated", row),
        16,
        lambda row: int(row["concurrency"]) * int(row["osl"]) > DEAR_TOKENS,
        lambda row: _cell_of(row, row["system"], row["backend"], row["concurrency"]),
    ),
    "closed_loops": Table(
        LOOPS,
        "closed loops at a concurrency",
        lambda row: rows_of_point(point_of(row)),
        _box_in("system"),
        lambda row: _cold("closed_loops", row),
        cell=lambda row: _cell_of(row, row["system"], row["backend"], row["concurrency"]),
    ),
}


def published(name: str) -> list[Case]:
    """Every row of a table."""
    rows = [{"run": run} for run in SERVICES] if name == "request_logs" else read_rows(name)
    return [Case(name, row) for row in rows]


def cases(section: str, *, whole: bool) -> list[Case]:
    """The rows of a section that can be expressed: all of them, or a sample that takes a minute."""
    found = []
    for name, table in TABLES.items():
        if table.section != section:
            continue
        held = [case for case in published(name) if not table.left_out(case.cells)]
        if not whole:
            held = [case for case in held[:: table.every] if case.cells.get("sample", "1") == "1"]
            held = [case for case in held if not table.dear(case.cells)]
        found += held
    return found


CELL_KEYS = ("model", "engine", "gpu", "users")


def cell_of_words(text: str) -> dict[str, str]:
    """A cell from its words with commas between, in any order, by what each is of. InputError for a word
    that no published row has.

    >>> cell_of_words("moe, vllm, 17 to 64")
    {'model': 'moe', 'engine': 'vllm', 'users': '17 to 64'}
    """
    known: dict[str, str] = {}
    for name, table in TABLES.items():
        if table.cell is not None:
            rows = (case.cells for case in published(name) if not table.left_out(case.cells))
            known |= {word: key for row in rows for key, word in table.cell(row).items()}
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in known:
            raise InputError(
                Problem(unknown_name("kind of model, engine, GPU or band of users", word, list(known)))
            )
    cell: dict[str, str] = {}
    for word in words:
        before = cell.setdefault(known[word], word)
        if before != word:
            what = {"model": "a kind of model", "gpu": "a GPU", "engine": "an engine"}
            both = f"{before!r} and {word!r} are both {what.get(known[word], 'a band of users')}"
            raise InputError(Problem(f"{both}: a cell has one of them"))
    return cell


def sections_with_cells() -> list[str]:
    """The sections of the ledger that have cells on the board."""
    return list(dict.fromkeys(table.section for table in TABLES.values() if table.cell is not None))


def is_in_cell(case: Case, cell: Mapping[str, str]) -> bool:
    """Whether errors of a case are among those of a cell."""
    cell_of = TABLES[case.table].cell
    return cell_of is not None and cell.items() <= cell_of(case.cells).items()


def simulated(case: Case) -> list[Row]:
    """The rows of the ledger that a case gives."""
    table = TABLES[case.table]
    return [
        replace(row, section=table.section, of={"table": table.title, **row.of, BOX: table.box(case.cells)})
        for row in table.rows_of(case.cells)
    ]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """So many of a table's rows that are not in the ledger, and why."""

    table: str
    of: int
    rows: int
    reason: str


def left_out(outcomes: Iterable[Outcome] = ()) -> list[LeftOut]:
    """Published rows without a simulated number, by table and reason: those that cannot be expressed, and
    those among `outcomes` that came to nothing.
    """
    counted: dict[tuple[str, str], int] = {}
    sizes = {}
    for name, table in TABLES.items():
        rows_of_table = published(name)
        sizes[name] = len(rows_of_table)
        for case in rows_of_table:
            if reason := table.left_out(case.cells):
                counted[name, reason] = counted.get((name, reason), 0) + 1
    for outcome in outcomes:
        if outcome.case.table in sizes:
            key = outcome.case.table, NO_ROOM
            counted[key] = counted.get(key, 0) + 1
    return [
        LeftOut(TABLES[table].title, sizes[table], rows, reason) for (table, reason), rows in counted.items()
    ]
