"""What an nccl-tests program prints, read back: which collective, on how many GPUs of which kind, and how
long each size took.

The log says how many ranks there were and on which devices (`# Using devices`), and since version 2.15 which
test ran; an older log needs the op named. Out-of-place times are taken, as its own average bandwidth does
first. What is read is the time in microseconds, not the bandwidths, which are rounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sim.inputs.errors import InputError, Problem
from sim.reading.text_files import refuse_what_is_no_file

OPS = {
    "all_reduce_perf": "all_reduce",
    "all_gather_perf": "all_gather",
    "reduce_scatter_perf": "reduce_scatter",
    "alltoall_perf": "all_to_all",
    "broadcast_perf": "broadcast",
    "sendrecv_perf": "send_recv",
}
_DEVICE = re.compile(r"#\s+Rank\s+\d+.*?\bon\s+(\S+)\s+device\s+\S+\s+(?:\[\S+\]\s*)?(.*\S)")
_ROW = re.compile(r"\s*(\d+)\s+\d+\s+\S+\s+\S+\s+-?\d+\s+([\d.]+)\s+[\d.]+\s+[\d.]+(?:\s+(\S+))?")
_FAILURE = re.compile(r".*\bTest \S+ failure\b.*")


@dataclass(frozen=True, slots=True)
class NcclTest:
    """One run: sizes in bytes and seconds, in the order of the log."""

    op: str
    gpus: int
    nodes: int
    device: str
    times: tuple[tuple[int, float], ...]


def is_nccl_tests(path: Path) -> bool:
    """True for a file that begins as nccl-tests' output does."""
    refuse_what_is_no_file(path, "a CSV file or a log of nccl-tests")
    with path.open(encoding="utf-8", errors="replace") as file:
        head = file.read(20_000)
    return "# nThread" in head or "# Using devices" in head or "# Collective test starting" in head


def read_nccl_tests(path: Path, op: str = "") -> NcclTest:
    """The run that a log shows. InputError where it shows none, or does not say which collective it was."""
    text = path.read_text(encoding="utf-8", errors="replace")
    devices = _DEVICE.findall(text)
    named = next((OPS[program] for program in OPS if program in text), "")
    if not named and not op:
        raise InputError(
            Problem(f"does not say which collective ran; name it: {', '.join(OPS.values())}", str(path))
        )
    times: list[tuple[int, float]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        row = None if line.lstrip().startswith("#") else _ROW.match(line)
        if row is None:
            continue
        if (row[3] or "0").isdigit() and int(row[3] or 0):
            what = f"{int(row[1]):,} bytes came out wrong in {row[3]} places; such a run says nothing of time"
            raise InputError(Problem(what, str(path), number))
        times.append((int(row[1]), float(row[2]) * 1e-6))
    if not devices:
        raise InputError(
            Problem("has no list of devices ('# Using devices'); keep the head of the log", str(path))
        )
    if not times:
        failure = _FAILURE.search(text)
        why = f": {failure[0].strip()}" if failure else ""
        raise InputError(Problem(f"has no rows of sizes and times{why}", str(path)))
    return NcclTest(
        op or named, len(devices), len({host for host, _ in devices}), devices[0][1], tuple(times)
    )
