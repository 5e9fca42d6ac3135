"""Logs of nccl-tests are read back as collectives, GPUs and times."""
# ruff: noqa: E501  (a log is as wide as it is)

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.calibration.collectives import shipped
from sim.calibration.nccl_logs import points_of_logs, server_errors
from sim.inputs.errors import InputError
from sim.reading.nccl_tests import NcclTest, is_nccl_tests, read_nccl_tests

LOG = """# Collective test starting: all_reduce_perf
# nThread 1 nGpus 2 minBytes 8 maxBytes 33554432 step: 2(factor) warmup iters: 5 iters: 20 agg iters: 1
# validation: 1 graph: 0
#
# Using devices
#  Rank  0 Group  0 Pid  44163 on  gpu-box-7 device  0 [0x07] NVIDIA H100 80GB HBM3
#  Rank  1 Group  0 Pid  44163 on  gpu-box-7 device  1 [0x0a] NVIDIA H100 80GB HBM3
#
#                                                              out-of-place                       in-place
# size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
# (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
        8192          2048     float     sum      -1     9.71    0.84    0.84      0     9.52    0.86    0.86      0
    33554432       8388608     float     sum      -1   140.20  239.33  239.33      0   141.10  237.80  237.80      0
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 120.1
#
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "all_reduce.log"
    path.write_text(LOG)
    return path


def test_op_ranks_device_and_out_of_place_times_are_read(log: Path) -> None:
    (run,) = read_nccl_tests(log)
    assert is_nccl_tests(log)
    assert (run.op, run.gpus, run.nodes, run.device) == ("all_reduce", 2, 1, "NVIDIA H100 80GB HBM3")
    assert run.times == ((8192, pytest.approx(9.71e-6)), (33554432, pytest.approx(140.2e-6)))


def test_the_points_of_a_log_belong_to_the_system_with_that_gpu(log: Path) -> None:
    assert {(point.system, point.library, point.gpus) for point in points_of_logs([log]).inside} == {
        ("h100_sxm", "nccl", 2)
    }


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("all_reduce_perf", "something", "which collective"),
        ("all_reduce_perf", "gather_perf", "ran gather_perf, which is not modelled"),
        ("     float     sum ", "", "no rows of sizes"),
        ("#  Rank  1 Group  0", "# rank 1", "ran on one GPU"),
        ("NVIDIA H100 80GB HBM3", "Voodoo 2", "name the system"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "name the system"),
        ("  time ", "cputime", "times of the CPU"),
        ("239.33      0 ", "239.33     12 ", r"bad\.log:13: 33,554,432 bytes came out wrong in 12 places"),
    ],
)
def test_a_log_that_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    path = tmp_path / "bad.log"
    path.write_text(LOG.replace(old, new))
    with pytest.raises(InputError, match=says):
        points_of_logs([path])


def test_a_run_that_failed_before_its_first_row_says_why(tmp_path: Path) -> None:
    path = tmp_path / "bad.log"
    head = [line for line in LOG.splitlines() if line.startswith("#")]
    path.write_text("\n".join([*head, "box: Test NCCL failure common.cu:958 'unhandled cuda error'"]))
    with pytest.raises(InputError, match=r"no rows.*unhandled cuda error"):
        read_nccl_tests(path)


def of_text(tmp_path: Path, text: str, op: str = "") -> tuple[NcclTest, ...]:
    path = tmp_path / "pasted.log"
    path.write_text(text)
    assert is_nccl_tests(path)
    return read_nccl_tests(path, op)


@pytest.mark.parametrize(
    "tag",
    ["[1,0]<stdout>:", "0: ", "Mon Jan 01 00:00:00 2024<stdout>:", "2024-01-01T00:00:00.123Z ", "pod-0 | "],
)
def test_what_a_launcher_puts_before_a_line_is_passed_over(tmp_path: Path, tag: str) -> None:
    tagged = "".join(f"{tag}{line}\n" for line in LOG.splitlines())
    assert of_text(tmp_path, tagged) == of_text(tmp_path, LOG)


OLD = """# nThread 1 nGpus 1 minBytes 1073741824 maxBytes 8589934592 step: 2(factor) warmup iters: 5 iters: 20 validation: 1
#   Rank  0 Pid  65996 on host device  0 [0x0e] NVIDIA A100-SXM-80GB
#   Rank  1 Pid  65997 on host device  1 [0x13] NVIDIA A100-SXM-80GB
#       size         count      type   redop     time   algbw   busbw  error     time   algbw   busbw  error
#        (B)    (elements)                       (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
  1073741824     268435456     float     sum    9306.7  115.37  115.37  0e+00   9291.5  115.56  115.56  0e+00
"""
WIDE = "time algbw busbw #wrong i_min i_max i_p99 i_cv%"
HEAD = LOG[: LOG.index("# size ")].replace("all_reduce", "alltoall")


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [
        ("64 16 float none -1 20.1 0.0 0.0 0 19.8 0.0 0.0 N/A", 20.1e-6),
        ("64 16 float none -1 N/A N/A N/A N/A 19.8 0.0 0.0 0", 19.8e-6),
        ("64 16 float 20.1 0.0 0.0 0 19.8 0.0 0.0 0", 20.1e-6),
        ("64 16 float 0 20.1 0.0 0.0 0 19.8 0.0 0.0 0", 20.1e-6),
        ("64 16 float none -1 20.1 0.0 0.0 0 19.8 0.0 0.0 0 2026-01-01 00:00:00", 20.1e-6),
        (
            f"# size count type redop root {WIDE} {WIDE}\n64 16 float none -1 20.1 0.0 0.0 0 1 2 3 4 19.8 0.0 0.0 0 1 2 3 4",
            20.1e-6,
        ),
    ],
)
def test_columns_of_every_release_are_told_apart(tmp_path: Path, rows: str, seconds: float) -> None:
    (run,) = of_text(tmp_path, HEAD + rows)
    assert (run.op, run.times) == ("all_to_all", ((64, pytest.approx(seconds)),))


def test_columns_before_2022_several_runs_and_servers(tmp_path: Path) -> None:
    two_servers = LOG.replace("gpu-box-7 device  1", "gpu-box-8 device  1")
    old, new = of_text(tmp_path, OLD + two_servers, "all_reduce")
    assert (old.device, old.times) == ("NVIDIA A100-SXM-80GB", ((1 << 30, pytest.approx(9306.7e-6)),))
    assert (new.gpus, new.nodes, len(new.times)) == (2, 2, 2)
    found = points_of_logs([tmp_path / "pasted.log"], op="all_reduce", in_place=True)
    assert [point.seconds for point in found.inside] == [pytest.approx(9291.5e-6)]
    assert {(one.system, one.nodes, one.gpus_per_node) for one in found.across} == {("nd-h100-v5", 2, 1)}


def test_the_json_of_both_suites_is_read(tmp_path: Path) -> None:
    devices = [{"rank": rank, "hostname": "a", "device_info": "NVIDIA H100"} for rank in range(2)]
    rows = [{"size": 64, "out_of_place": {"time": 9.5, "nwrong": 0}, "in_place": {"time": 9.0}}]
    nvidia = {"args": ["./all_gather_perf"], "config": {"devices": devices}, "results": rows}
    assert of_text(tmp_path, json.dumps(nvidia)) == (
        NcclTest("all_gather", 2, 1, "NVIDIA H100", ((64, pytest.approx(9.5e-6)),)),
    )
    amd = [
        {
            "name": "AllReduce",
            "nodes": 1,
            "ranks": 8,
            "size": 64,
            "inPlace": place,
            "time": 9.0 + place,
            "busBw": 1.0,
        }
        for place in (0, 1)
    ]
    assert of_text(tmp_path, json.dumps(amd)) == (
        NcclTest("all_reduce", 8, 1, "", ((64, pytest.approx(9e-6)),)),
    )


def test_ranks_follow_from_the_rates_where_nothing_else_says_them(tmp_path: Path) -> None:
    rows = "  33554432  8388608  float  sum  -1  140.20  239.33  418.8  0  141.10  237.80  237.80  0\n"
    assert [run.gpus for run in of_text(tmp_path, rows, "all_reduce")] == [8]
    with pytest.raises(InputError, match="no list of devices"):
        of_text(tmp_path, rows.replace("418.8", "480.0"), "all_reduce")


def test_a_log_stands_beside_any_machine_by_name_or_beside_none(tmp_path: Path) -> None:
    path = tmp_path / "bare.log"
    path.write_text("mpirun -np 16 all_reduce_perf\n1048576 262144 float sum -1 354.9 2.95 5.76 0 345.7 3.03 5.92 0\n"
                    "# size count type redop root time algbw busbw #wrong\n")  # fmt: skip
    ((where, run),) = points_of_logs([path]).unknown
    assert (where, run.gpus, run.device) == (path, 16, "")
    assert [one.nodes for one in points_of_logs([path], system="nd-h100-v5").across] == [2]
    (beside,) = server_errors(points_of_logs([path], system="gb300-nvl72").server, shipped())
    assert (beside.system, beside.size, beside.errors.count) == ("gb300-nvl72", 16, 1)
    with pytest.raises(InputError, match=r"known are .*nd-h100-v5"):
        points_of_logs([path], system="nd-h100-v6")
