"""Kernels and collectives timed by the model itself: what a fit should give back is known."""

from __future__ import annotations

from dataclasses import replace

from sim.calibration.collective_points import CollectivePoint
from sim.calibration.collectives import errors, shipped
from sim.calibration.kernel_fit import predicted_s, with_parameters
from sim.catalog import load_gpu
from sim.inputs.kernel_parameters import GemmParameters
from sim.reading.measurements import Measurement

TRUE = GemmParameters(
    floor_s=4e-6,
    hbm_fraction=0.8,
    flop_fraction=0.7,
    s_per_depth=1e-9,
    wave_loss=0.3,
    overlap=3,
    throttle=0.2,
)


SHAPES = ((512, 512), (1536, 4096), (4096, 4096), (8192, 1024), (8192, 8192), (28672, 8192), (5120, 25600))


def products(gpu_name: str, true: GemmParameters = TRUE) -> list[Measurement]:
    gpu = with_parameters(load_gpu(gpu_name).model_copy(update={"kernels": None}), "gemm", "bf16", true)
    measured = []
    for n, k in SHAPES:
        for m in (1, 16, 64, 256, 1024, 4096):
            sizes = {"m": m, "n": n, "k": k, "dtype": "bf16"}
            one = Measurement(gpu_name, "vllm", "gemm", "bf16", sizes, f"{n}/{k}")
            measured.append(replace(one, seconds=predicted_s(gpu, one)))
    return measured


SIZES = [4.0**n for n in range(5, 15)]


def made(system: str, library: str, op: str = "all_reduce", gpus: int = 2) -> list[CollectivePoint]:
    """Collectives as the shipped parameters time them."""
    asked = [CollectivePoint(system, library, op, gpus, n_bytes, 1.0) for n_bytes in SIZES]
    return [replace(point, seconds=1.0 + error) for point, error in errors(asked, shipped())]
