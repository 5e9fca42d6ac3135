"""Every error on measured points that no fit saw, from a folder of measured tables, in one go.

    python -m sim.calibration.held_out MEASURED [kernels] [collectives] [experts]

Kernels by shape and by GPU (a plain roofline beside them), collectives inside a server by ranks, system and
kind of GPU, and between servers by system, number of servers and operation (a plain alpha-beta model beside
both), exchanges between experts by system and ranks (that model and the bare rate of the links). Every fit
is made anew for what it is judged on.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from sim.calibration import command
from sim.calibration import held_out_collectives as hold_out_collectives
from sim.calibration import held_out_expert_exchange as hold_out_experts
from sim.calibration.collectives import measured_in, shipped
from sim.calibration.held_out_multinode import held_out_across
from sim.calibration.kernels import calibrate, measurements_of, summary, table
from sim.calibration.multinode_points import across_points
from sim.inputs.errors import InputError
from sim.reading.problems import unknown_name

INSIDE = ("collectives_nccl.csv", "collectives_custom_allreduce.csv")
ACROSS = ("collectives_h100_ib_cluster.csv", "collectives_vidur.csv", "collectives_public_points.csv")
EXPERTS = ("moe_all_to_all.csv",)

Row = tuple[str, tuple[float, float, float, float]]  # what; median, 90th percentile, bias, a plain model's


def kernels(folder: Path) -> None:
    """Print every set, and by engine and kernel the medians over sets."""
    fits = calibrate(measurements_of([folder]))
    print(table(fits))
    print("\nmedian over sets of held-out median and 90th percentile")
    for (engine, kernel), (middle, p90) in summary(fits).items():
        print(f"{engine:7} {kernel:18} {100 * middle:5.1f} {100 * p90:5.0f}")


def collectives(folder: Path) -> None:
    """Print medians over groups, of collectives inside a server and between servers."""
    files = shipped()
    inside = hold_out_collectives.held_out(measured_in(_there(folder, INSIDE)), files)
    _print(
        "collectives inside a server",
        [
            (f"{one.how}: {one.library} {one.op}", (one.median, one.p90, one.bias, one.alpha_beta_median))
            for one in inside
        ],
    )
    across = held_out_across(across_points(_there(folder, ACROSS), print), files)
    _print(
        "collectives between servers",
        [(f"{one.how}: {one.op}", (one.median, one.p90, one.bias, one.alpha_beta_median)) for one in across],
    )


def experts(folder: Path) -> None:
    """Print every system and number of ranks, of dispatch and combine."""
    points = [point for path in _there(folder, EXPERTS) for point in hold_out_experts.exchange_points(path)]
    print("\nexchanges between experts: |error|, its 90th percentile, bias, and two plain models' |error|")
    print(f"{'library':28} {'system':9} ranks phase    points median    p90   bias  link rate  alpha-beta")
    for one in hold_out_experts.held_out(points):
        print(
            f"{one.library:28} {one.system:9} {one.size:5} {one.op:8} {one.points:6} "
            f"{100 * one.median:6.1f} {100 * one.p90:6.1f} {100 * one.bias:+6.1f} "
            f"{100 * one.link_rate_median:10.1f} {100 * one.alpha_beta_median:11.1f}"
        )


def _there(folder: Path, names: Sequence[str]) -> list[Path]:
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise InputError(f"{folder} has none of {', '.join(names)}")
    return found


def _print(title: str, rows: Iterable[Row]) -> None:
    groups: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for name, errors in rows:
        groups[name].append(errors)
    print(
        f"\n{title}: medians over groups of |error|, its 90th percentile, bias, and a plain model's |error|"
    )
    for name, of in groups.items():
        values = [100 * median(errors[i] for errors in of) for i in range(4)]
        print(f"{name:52} {len(of):3} {values[0]:6.1f} {values[1]:6.1f} {values[2]:+6.1f} {values[3]:7.1f}")


SECTIONS = {"kernels": kernels, "collectives": collectives, "experts": experts}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command of the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m sim.calibration.held_out", description=__doc__)
    parser.add_argument("folder", help="the folder with the measured tables")
    parser.add_argument("sections", nargs="*", help=f"{', '.join(SECTIONS)}; default: all")
    given = parser.parse_args(arguments)
    for name in given.sections:
        if name not in SECTIONS:
            raise InputError(unknown_name("section", name, list(SECTIONS)))
    for name in given.sections or SECTIONS:
        SECTIONS[name](command.existing(given.folder))


if __name__ == "__main__":
    command.run(main)
