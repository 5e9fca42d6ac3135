"""What nccl-tests and rccl-tests print, read back: which collective, on how many GPUs of which kind, and how
long each size took.

A log is read as it is pasted: what a launcher puts before a line (`[1,0]<stdout>:` of mpirun, `0:` of
`srun -l`, a time stamp) is passed over, and the columns are told by their heads, as releases since 2.0 have
them. The log says how many ranks there were and on which devices (`# Using devices`), and since version 2.15
which test ran; an older log needs the op named. The JSON files of both suites (`-J`, `-Z json`) are read too.

Out-of-place times are taken, as its own average bandwidth does first, or those in place where they are asked
for or are all there is. What is read is the time in microseconds, not the bandwidths, which are rounded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sim.inputs.errors import InputError, Problem
from sim.reading.text_files import refuse_what_is_no_file, text_of

OPS = {
    "all_reduce_perf": "all_reduce",
    "all_gather_perf": "all_gather",
    "reduce_scatter_perf": "reduce_scatter",
    "alltoall_perf": "all_to_all",
    "broadcast_perf": "broadcast",
    "sendrecv_perf": "send_recv",
}
RCCL_NAMES = {
    "AllReduce": "all_reduce",
    "AllGather": "all_gather",
    "ReduceScatter": "reduce_scatter",
    "AlltoAll": "all_to_all",
    "Broadcast": "broadcast",
    "SendRecv": "send_recv",
}
MAX_BYTES = 200_000_000
_HEAD = re.compile(
    r"# nThread|# Using devices|# Collective test starting|\bsize\s+count\b.*\btime\s+algbw\b"
    r"|^\s*\d+\s+\d+\s+(?:u?int8|u?int32|u?int64|half|float|double|bfloat16)\s+\w+\s+-?[\d.]+\s+[\d.]+\s",
    re.MULTILINE,
)
_DEVICE = re.compile(
    r"#\s+Rank\s+(\d+)(?:\s+Group\s+(\d+))?.*?\bon\s+(\S+)\s+device\s+\S+\s+(?:\[\S+\]\s*)?(.*\S)"
)
_PROGRAM = re.compile(r"([a-z_0-9]+_perf)\b")
_COLUMNS = re.compile(r"#\s+size\s+count\s+(.*)")
_ROW = re.compile(r"(?:^|[\s:>\]|])(\d{1,18})\s+(\d+)\s+([a-z][a-z0-9_]*)\s+(\S.*)")
_STAMP = re.compile(r"(?:\s+\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d\S*)+\s*$")
_RUN = re.compile(r"# nThread\s+(\d{1,6})\s+nGpus\s+(\d{1,6})")
_LAUNCHED = re.compile(r"\b(?:mpirun|mpiexec|srun)\b.*?\s(?:-np|-n|--np|--ntasks)[ =](\d{1,6})\b")
_FAILURE = re.compile(r".*\bTest \S+ failure\b.*")
_BLOCK = ("time", "algbw", "busbw", "#wrong")


@dataclass(frozen=True, slots=True)
class NcclTest:
    """One run: sizes in bytes and seconds, in the order of the log. `device` is empty where the log does not
    name it.
    """

    op: str
    gpus: int
    nodes: int
    device: str
    times: tuple[tuple[int, float], ...]


def is_nccl_tests(path: Path) -> bool:
    """True for a file that has what nccl-tests or rccl-tests print, or write as JSON."""
    refuse_what_is_no_file(path, "a CSV file or a log of nccl-tests")
    with path.open(encoding="utf-8", errors="replace") as file:
        head = file.read(1_000_000)
    return bool(_HEAD.search(head)) or _is_json(head)


def _is_json(head: str) -> bool:
    if head.lstrip()[:1] not in ("{", "["):
        return False
    return ('"results"' in head and '"out_of_place"' in head) or ('"busBw"' in head and '"inPlace"' in head)


def read_nccl_tests(path: Path, op: str = "", *, in_place: bool = False) -> tuple[NcclTest, ...]:
    """The runs that a log shows, in their order.

    InputError where it shows none, or does not say which collective it was or on how many GPUs.
    """
    refuse_what_is_no_file(path, "a log of nccl-tests")
    text = path.read_text(encoding="utf-8", errors="replace")
    if _is_json(text[:1_000_000]):
        return (_read_json(path, op, in_place),)
    runs = tuple(_run(section, text, path, op, in_place) for section in _sections(text))
    return runs or (_run(text, text, path, op, in_place),)


def _sections(text: str) -> Iterator[str]:
    """The parts of a log that are a run each: from the comments around its `# nThread` to the next."""
    lines = text.splitlines(keepends=True)
    starts = []
    for index, line in enumerate(lines):
        if _RUN.search(line):
            while index and "#" in lines[index - 1] and "concluded" not in lines[index - 1]:
                index -= 1
            starts.append(index)
    for start, end in pairwise([*starts, len(lines)]):
        yield "\n" * start + "".join(lines[start:end])  # lines keep their numbers


def _run(section: str, text: str, path: Path, op: str, in_place: bool) -> NcclTest:
    named = op or _op_of(_PROGRAM.findall(section) or _PROGRAM.findall(text), path)
    times = tuple(_times(section, path, in_place))
    if not times:
        failure = _FAILURE.search(section)
        why = f": {failure[0].strip()}" if failure else ""
        raise InputError(Problem(f"has no rows of sizes and times{why}", str(path)))
    devices = {(group, rank): (host, device) for rank, group, host, device in _DEVICE.findall(section)}
    first_group = min((group for group, _ in devices), default="")
    of_one = [place for (group, _), place in devices.items() if group == first_group]
    hosts = {host for host, _ in of_one}
    gpus = len(of_one) or _ranks_by_rates(section, named) or _launched(section, text, path)
    device = of_one[0][1] if of_one else ""
    return _checked(NcclTest(named, gpus, max(1, len(hosts)), device, times), path)


def _checked(run: NcclTest, path: Path) -> NcclTest:
    if run.gpus < 2:
        raise InputError(
            Problem(
                "ran on one GPU, which sends nothing; build the tests with MPI=1 for one process a GPU, or "
                "give them -g 8",
                str(path),
            )
        )
    largest = max((n_bytes for n_bytes, _ in run.times), default=0)
    if largest >= 10**18:
        raise InputError(Problem(f"has a size of {largest:.3g} bytes: must be below 1e18", str(path)))
    return run


def _op_of(programs: Sequence[str], path: Path) -> str:
    known = [OPS[name] for name in programs if name in OPS]
    if len(set(known)) > 1:
        several = ", ".join(dict.fromkeys(known))
        raise InputError(Problem(f"has several collectives ({several}); give each a file", str(path)))
    if known:
        return known[0]
    listed = ", ".join(OPS.values())
    if programs:
        raise InputError(Problem(f"ran {programs[0]}, which is not modelled; {listed} are", str(path)))
    raise InputError(Problem(f"does not say which collective ran; name it with --op: {listed}", str(path)))


def _ranks_by_rates(section: str, op: str) -> int:
    """Ranks by the ratio of busbw and algbw, 2 (n - 1) / n of an all-reduce and (n - 1) / n of gathers and
    exchanges; 0 where their rounding leaves more than one number.
    """
    share = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1.0}.get(op)
    able: set[int] | None = None
    for _, _, _, rest in _ROW.findall(section) if share else ():
        values = _STAMP.sub("", rest).split()
        values = values[1:] if values[0].isalpha() else values
        rates = values[len(values) % len(_BLOCK) :][1:3]  # without the root and the time
        if not share or len(rates) < 2 or _number(rates[0]) < 1.0 or not _number(rates[1]):
            continue
        halves = [0.5 * 10.0 ** -len(rate.partition(".")[2]) for rate in rates]
        low = (float(rates[1]) - halves[1]) / (float(rates[0]) + halves[0]) / share
        high = (float(rates[1]) + halves[1]) / (float(rates[0]) - halves[0]) / share
        if high >= 1.0:
            continue
        found = set(range(math.ceil(1.0 / (1.0 - low)), math.floor(1.0 / (1.0 - high)) + 1))
        able = found if able is None else able & found
    return able.pop() if able and len(able) == 1 else 0


def _launched(section: str, text: str, path: Path) -> int:
    """Ranks by what started the run, where its devices are cut off."""
    run, launched = _RUN.search(section), _LAUNCHED.search(text)
    if not run and not launched:
        raise InputError(
            Problem("has no list of devices ('# Using devices'); keep the head of the log", str(path))
        )
    each = int(run[1]) * int(run[2]) if run else 1
    return each * (int(launched[1]) if launched else 1)


def _times(text: str, path: Path, in_place: bool) -> Iterator[tuple[int, float]]:
    columns: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        heads = _COLUMNS.search(line)
        if heads:
            columns = [
                name for name in heads[1].split() if name not in ("type", "redop", "root", "timestamp")
            ]
            continue
        if "cputime" in columns:
            what = "reports times of the CPU (-C 1), which are those of launching; run it without -C"
            raise InputError(Problem(what, str(path), number))
        row = None if "#" in line else _ROW.search(line)
        block = row and _block(_STAMP.sub("", row[4]).split(), columns, in_place)
        if not row or not block:
            continue
        seconds, wrong = block
        if wrong:
            what = (
                f"{int(row[1]):,} bytes came out wrong in {wrong:g} places; such a run says nothing of time"
            )
            raise InputError(Problem(what, str(path), number))
        if int(row[1]):
            yield int(row[1]), seconds


def _block(values: list[str], columns: Sequence[str], in_place: bool) -> tuple[float, float] | None:
    """Seconds of a row and how many elements came out wrong; None where it is no row of times."""
    if len(columns) < len(_BLOCK) or columns[0] != "time":
        columns = (*_BLOCK, *_BLOCK)
    if values and values[0].isalpha() and values[0] != "N/A":
        values = values[1:]  # the reduction, which tests without one once left out
    starts = [index for index, name in enumerate(columns) if name == "time"]
    width = starts[1] - starts[0] if len(starts) > 1 else len(columns)
    if len(values) % width == 1:
        values = values[1:]  # the root
    blocks = [values[start : start + width] for start in range(0, len(values), width)]
    if not blocks or len(blocks[-1]) < width or width < len(_BLOCK):
        return None
    for block in reversed(blocks) if in_place else blocks:
        seconds = 1e-6 * _number(block[0])
        if seconds > 0.0:
            return seconds, _number(block[3]) if columns[3] == "#wrong" else 0.0
    return None


def _number(written: Any) -> float:
    """A number as it is printed; 0 for N/A and what is none."""
    try:
        found = float(written)
    except (TypeError, ValueError):
        return 0.0
    return found if 0.0 < found < float("inf") else 0.0


def _read_json(path: Path, op: str, in_place: bool) -> NcclTest:
    text = text_of(path, "a file of nccl-tests", MAX_BYTES)
    try:
        written = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(Problem(f"is not whole JSON: {str(error)[:100]}", str(path))) from None
    try:
        if isinstance(written, list):
            return _checked(_of_rccl(written, op, in_place, path), path)
        devices = written["config"]["devices"]
        named = op or _op_of(_PROGRAM.findall(text), path)
        times = list(_json_times(written["results"], in_place, path))
        hosts = {device["hostname"] for device in devices}
        run = NcclTest(named, len(devices), len(hosts), str(devices[0]["device_info"]), tuple(times))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        what = f"lacks {error} of the JSON that nccl-tests writes (-J) and rccl-tests (-Z json)"
        raise InputError(Problem(what, str(path))) from None
    if not times:
        raise InputError(Problem("has no rows of sizes and times", str(path)))
    return _checked(run, path)


def _json_times(rows: Iterable[Mapping[str, Any]], in_place: bool, path: Path) -> Iterator[tuple[int, float]]:
    order = ("in_place", "out_of_place") if in_place else ("out_of_place", "in_place")
    for row in rows:
        for name in order:
            block = row.get(name)
            if block and _number(block.get("time")):
                _refuse_wrong(int(row["size"]), block.get("nwrong"), path)
                if int(row["size"]):
                    yield int(row["size"]), 1e-6 * float(block["time"])
                break


def _refuse_wrong(n_bytes: int, wrong: Any, path: Path) -> None:
    if _number(wrong):
        what = (
            f"{n_bytes:,} bytes came out wrong in {_number(wrong):g} places; such a run says nothing of time"
        )
        raise InputError(Problem(what, str(path)))


def _of_rccl(rows: list[Mapping[str, Any]], op: str, in_place: bool, path: Path) -> NcclTest:
    first = rows[0]
    chosen: dict[int, tuple[int, float]] = {}
    for row in rows:
        _refuse_wrong(int(row["size"]), row.get("wrong"), path)
        if _number(row["time"]) and (int(row["size"]) not in chosen or bool(row["inPlace"]) == in_place):
            chosen[int(row["size"])] = int(row["size"]), 1e-6 * float(row["time"])
    named = op or RCCL_NAMES.get(str(first["name"]), "") or OPS.get(str(first["name"]), "")
    if not named:
        raise InputError(
            Problem(f"ran {first['name']}, which is not modelled; {', '.join(OPS.values())} are", str(path))
        )
    return NcclTest(named, int(first["ranks"]), int(first["nodes"]), "", tuple(chosen.values()))
