"""Where shipped data lies: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.reading import data_files


@pytest.fixture(autouse=True)
def forget() -> None:
    data_files.data_folder.cache_clear()


@pytest.mark.parametrize("in_wheel", [False, True])
def test_data_lies_beside_the_package_or_inside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_wheel: bool
) -> None:
    package = tmp_path / "sim"
    folder = package / "data" if in_wheel else tmp_path
    (package / "data" / "measured").mkdir(parents=True)  # there either way
    (folder / "topologies").mkdir()
    monkeypatch.setattr(data_files, "PACKAGE", package)
    assert data_files.topologies() == folder / "topologies"
    assert data_files.workloads() == folder / "workloads"
    assert data_files.experiments() == folder / "experiments"
    assert data_files.measured() == package / "data" / "measured"
    data_files.data_folder.cache_clear()


def test_the_checkout_has_all_four() -> None:
    for folder in (data_files.topologies, data_files.workloads, data_files.experiments, data_files.measured):
        assert any(folder().iterdir())
