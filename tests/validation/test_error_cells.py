"""The file of errors that runs read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.calibration import unseen
from sim.calibration.collective_points import CollectivePoint
from sim.calibration.collectives import shipped, with_parameters_of
from sim.calibration.kernels import measurements_of
from sim.reading.accuracy import Accuracy, Errors, Section, accuracy, as_text, read_accuracy
from sim.reading.data_files import accuracy_file, code_digest, measured
from sim.results.compared import BOX, Row
from sim.validation import error_cells
from sim.validation.ledger import grouped
from sim.validation.services.tables import TABLES, published


def service(error: float, model: str = "llama-3.1-8b", users: str = "1 to 4", **more: str) -> Row:
    of = {"model": model, "GPU": "H100", "engine": "vllm", "users": users, BOX: "nd-h100-v5", **more}
    return Row(
        "a case", "time per output token", "ms", 10.0, 10.0 * (1.0 + error), section="closed-loops", of=of
    )


def test_cells_are_of_gpu_model_engine_and_users_and_of_fewer_of_them() -> None:
    rows = [service(0.1), service(-0.3, users="5 to 16"), service(0.5, model="deepseek-v3")]
    cells = error_cells.sections_of(rows)["closed_loops"]
    by = {tuple(sorted(cell.of.items())): cell for cell in cells}
    fine = {
        "quantity": "mean_tpot_ms",
        "model": "dense",
        "gpu": "h100-sxm",
        "engine": "vllm",
        "users": "1 to 4",
    }
    assert by[tuple(sorted(fine.items()))].n == 1
    coarse = by[(("model", "dense"), ("quantity", "mean_tpot_ms"))]
    assert (coarse.n, coarse.median, coarse.bias) == (2, 0.2, -0.1)
    assert by[(("quantity", "mean_tpot_ms"),)].n == 3


def test_what_a_constant_was_fitted_on_is_no_error() -> None:
    fitted = Row("a case", "time per output token", "ms", 10.0, 10.0, "fitted", section="closed-loops")
    assert error_cells.sections_of([fitted]) == {}


def test_a_file_keeps_the_sections_that_were_not_run_and_says_what_wrote_each(tmp_path: Path) -> None:
    path = tmp_path / "errors.json"
    before = Accuracy(
        {"pools": Section([Errors.over({"all": "all"}, [0.1] * 10)])}, {"pools": {"by": "a run"}}
    )
    path.write_text(as_text(before))
    error_cells.write([service(0.1)] * 12, path, "sim validate closed-loops")
    found = read_accuracy(path)
    assert set(found.sections) == {"pools", "closed_loops"}
    assert found.written["pools"]["by"] == "a run"
    assert found.written["closed_loops"] == {
        "by": "sim validate closed-loops",
        "version": "0.1.0",
        "most_points": 12,
    }
    assert json.loads(path.read_text())["pools"]["cells"][0]["n"] == 10


def test_a_thin_cell_gives_way_to_a_coarser_one_that_says_so() -> None:
    fine = Errors.over({"gpu": "a", "users": "few"}, [0.1] * 9)
    coarse = Errors.over({"gpu": "a"}, [0.2] * 10)
    found = Section([fine, coarse]).nearest({"gpu": "a", "users": "few"}, "gpu users", "gpu")
    assert found is not None
    assert found.of == {"gpu": "a"}
    assert Section([fine]).nearest({"gpu": "a", "users": "few"}, "gpu users", "gpu") is None


def test_a_band_is_of_what_would_be_measured_over_what_is_simulated() -> None:
    errors = Errors.over({}, [-0.5, 0.0, 1.0])  # percentiles 10 and 90: -0.4 and 0.8
    assert errors.eight_in_ten == pytest.approx((1 / 1.8, 1 / 0.6))


def test_a_missing_file_leaves_answers_without_bands(tmp_path: Path) -> None:
    assert read_accuracy(tmp_path / "none.json")["kernels"].nearest({"kernel": "gemm"}, "kernel") is None


def test_the_shipped_file_has_every_section_and_no_simulated_number_depends_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = {
        "kernels", "stand_ins", "collectives", "borrowed_collectives", "collectives_across", "closed_loops",
        "queued",
    }  # fmt: skip
    assert expected <= set(accuracy().sections)
    assert all(said["by"] and said["version"] for said in accuracy().written.values())
    read: list[Path] = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or b"")
    code_digest()
    assert accuracy_file() not in read
    assert accuracy_file().parent / "measured" / "gemm.csv" in read


def test_stand_ins_are_tried_on_gpus_that_are_left_out() -> None:
    few = [one for one in measurements_of([measured()]) if one.op == "gemm"][::8]
    by = {tuple(cell.of.values()): cell for cell in unseen.stand_in_cells(few)}
    hopper, nvidia, widest = (by[near, "gemm"] for near in ("architecture", "vendor", "none"))
    assert hopper.median < nvidia.median <= widest.median
    assert widest.p5 <= nvidia.p5
    assert widest.p95 >= nvidia.p95
    assert by["vendor", "gemm", "memory"].n < nvidia.n


def test_kinds_of_gpu_are_priced_by_each_others_collectives() -> None:
    points = [
        CollectivePoint("h100_sxm", "nccl", "all_reduce", 8, float(2**power), 1e-4) for power in (12, 27)
    ]
    cells = {tuple(cell.of.values()): cell for cell in unseen.borrowed_collective_cells(points, shipped())}
    assert cells["all",].n == 6  # two points by three other kinds on NVLink
    assert cells["all_reduce", "above 1 MB"].n == 3
    files = with_parameters_of(shipped(), "hopper", "ampere")["inside"]["architectures"]
    assert files["hopper"]["nccl"] == files["ampere"]["nccl"]


def test_every_published_row_names_the_box_that_stands_for_its_machine() -> None:
    for table in TABLES.values():
        for case in published(next(name for name, one in TABLES.items() if one is table)):
            if not table.left_out(case.cells):
                assert table.box(case.cells)


def test_groups_name_the_boxes_of_their_rows_and_are_not_grouped_by_them() -> None:
    groups = grouped([service(0.1), service(0.2, **{BOX: "hgx-h200"})])
    assert {group.by for group in groups} == {"all", "model", "GPU", "engine", "users"}
    assert groups[0].boxes == ("hgx-h200", "nd-h100-v5")
    assert groups[0].as_dict()["box"] == "hgx-h200, nd-h100-v5"
