"""Logs of nccl-tests are read back as collectives, GPUs and times."""
# ruff: noqa: E501  (a log is as wide as it is)

from __future__ import annotations

from pathlib import Path

import pytest

from sim.calibration.collective_points import measured_in
from sim.inputs.errors import InputError
from sim.reading.nccl_tests import is_nccl_tests, read_nccl_tests

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
    run = read_nccl_tests(log)
    assert is_nccl_tests(log)
    assert (run.op, run.gpus, run.nodes, run.device) == ("all_reduce", 2, 1, "NVIDIA H100 80GB HBM3")
    assert run.times == ((8192, pytest.approx(9.71e-6)), (33554432, pytest.approx(140.2e-6)))


def test_the_points_of_a_log_belong_to_the_system_with_that_gpu(log: Path) -> None:
    assert {(point.system, point.library, point.gpus) for point in measured_in([log])} == {
        ("h100_sxm", "nccl", 2)
    }


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("all_reduce_perf", "something", "which collective"),
        ("#  Rank", "#  rank", "no list of devices"),
        ("float", "", "no rows of sizes"),
        ("gpu-box-7 device  1", "gpu-box-8 device  1", "several servers"),
        ("NVIDIA H100 80GB HBM3", "Voodoo 2", "name the system"),
        ("239.33      0 ", "239.33     12 ", r"bad\.log:13: 33,554,432 bytes came out wrong in 12 places"),
    ],
)
def test_a_log_that_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    path = tmp_path / "bad.log"
    path.write_text(LOG.replace(old, new))
    with pytest.raises(InputError, match=says):
        measured_in([path])


def test_a_run_that_failed_before_its_first_row_says_why(tmp_path: Path) -> None:
    path = tmp_path / "bad.log"
    head = [line for line in LOG.splitlines() if line.startswith("#")]
    path.write_text("\n".join([*head, "box: Test NCCL failure common.cu:958 'unhandled cuda error'"]))
    with pytest.raises(InputError, match=r"no rows.*unhandled cuda error"):
        read_nccl_tests(path)
