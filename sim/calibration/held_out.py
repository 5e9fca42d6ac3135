"""Every error on measured points that no fit saw, from a folder of measured tables.

    sim calibrate held-out MEASURED [kernels] [collectives] [experts]

Kernels by shape and by GPU, beside a plain roofline; collectives inside a server by ranks, system and kind
of GPU, and between servers by system, number of servers and operation, beside a plain alpha-beta model;
exchanges between experts by system and ranks, beside that model and the bare rate of the links. Every fit is
made anew without the points that it predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sim.calibration import held_out_collectives, held_out_expert_exchange
from sim.calibration.collective_points import measured_in
from sim.calibration.collectives import shipped
from sim.calibration.fitting import CurveErrors
from sim.calibration.held_out_multinode import held_out_multinode
from sim.calibration.kernels import Fit, calibrate, measurements_of
from sim.calibration.multinode_points import multinode_points
from sim.inputs.errors import InputError

SECTIONS = ("kernels", "collectives", "experts")
INTRA_NODE = ("collectives_nccl.csv", "collectives_custom_allreduce.csv")
INTER_NODE = ("collectives_h100_ib_cluster.csv", "collectives_vidur.csv", "collectives_public_points.csv")
EXPERTS = ("moe_all_to_all.csv",)


def kernel_fits(folder: Path) -> list[Fit]:
    """Every set of kernel parameters, with the errors of each shape and of each GPU held out."""
    return calibrate(measurements_of([folder]))


def intra_node_errors(folder: Path) -> list[CurveErrors]:
    """Collectives inside a server: numbers of ranks, systems and kinds of GPU held out."""
    return held_out_collectives.held_out(measured_in(_there(folder, INTRA_NODE)), shipped())


def inter_node_errors(folder: Path, on_progress: Callable[[str], None]) -> list[CurveErrors]:
    """Collectives between servers: systems, numbers of servers and operations held out. `on_progress` gets a
    line on how many points are left out as disturbed.
    """
    return held_out_multinode(multinode_points(_there(folder, INTER_NODE), on_progress), shipped())


def expert_errors(folder: Path) -> list[CurveErrors]:
    """Dispatch and combine: each system and number of ranks held out."""
    tables = _there(folder, EXPERTS)
    points = [point for path in tables for point in held_out_expert_exchange.exchange_points(path)]
    return held_out_expert_exchange.held_out(points)


def _there(folder: Path, names: Sequence[str]) -> list[Path]:
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise InputError(f"{folder} has none of {', '.join(names)}")
    return found
