"""Parameters of collectives inside a server, fitted to points."""

from __future__ import annotations

from copy import deepcopy

import pytest
import yaml

from sim.calibration.collectives import (
    as_yaml,
    by_curve,
    chosen,
    errors,
    fit_block,
    fitted,
    free_numbers,
    shipped,
)
from tests.calibration.made_points import SIZES, made


def test_points_that_the_parameters_made_have_no_error() -> None:
    assert max(abs(error) for _, error in errors(made("l40s", "nccl"), shipped())) < 1e-9


def test_a_block_comes_back_from_the_times_that_it_made() -> None:
    points = made("l40s", "nccl", "all_to_all")
    start = shipped()
    direct = start["inside"]["architectures"]["ada"]["nccl"]["direct"]
    for name, low, high in (
        (one.path[-1], one.low, one.high) for one in free_numbers("ada", "direct", start)
    ):
        direct[name] = min(max(1.3 * float(direct[name]), low), high)
    assert max(abs(error) for _, error in errors(points, start)) > 0.05
    before = deepcopy(start)
    found = fit_block(start, free_numbers("ada", "direct", start), points)
    assert max(abs(error) for _, error in errors(points, found)) < 0.01
    assert start == before


def test_a_block_with_fewer_points_than_free_numbers_stays_as_it_is() -> None:
    assert fitted(shipped(), made("l40s", "nccl")[:2]) == shipped()


def test_no_free_number_may_leave_its_bounds_and_shipped_ones_have_not() -> None:
    files = shipped()
    blocks = files["inside"]["architectures"]
    for kind, block in blocks.items():
        for library in ("nccl", "direct", *block["engines"]):
            for path, low, high in free_numbers(kind, library, files):
                value = blocks
                for name in path:
                    value = value[name]
                assert low * (1 - 1e-3) <= value <= high * (1 + 1e-3), path


def test_points_are_chosen_by_kind_of_gpu_and_library() -> None:
    points = [*made("l40s", "nccl"), *made("l40s", "nccl", "all_to_all"), *made("a100_sxm", "vllm", gpus=4)]
    assert {point.op for point in chosen(points, "ada", "nccl", shipped())} == {"all_reduce"}
    assert {point.op for point in chosen(points, "ada", "direct", shipped())} == {"all_to_all"}
    assert {point.system for point in chosen(points, "ampere", "vllm", shipped())} == {"a100_sxm"}


def test_a_curve_has_one_row_of_errors_with_the_plain_model_beside() -> None:
    points = made("l40s", "nccl")
    rows = by_curve("shipped", [(point, 0.1) for point in points], lambda point: 2.0 * point.seconds)
    (row,) = rows
    assert (row.how, row.system, row.library, row.op, row.size) == (
        "shipped",
        "l40s",
        "nccl",
        "all_reduce",
        2,
    )
    assert (row.errors.count, row.errors.median) == (len(SIZES), pytest.approx(0.1))
    assert row.alpha_beta is not None
    assert row.alpha_beta.median == pytest.approx(1.0)


def test_the_text_of_the_file_is_read_back_as_it_was() -> None:
    assert yaml.safe_load(as_yaml(shipped())) == shipped()["inside"]
