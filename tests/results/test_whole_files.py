"""Files and folders are whole or absent, and one writer at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.inputs.errors import InputError
from sim.results.whole_files import check_writable, locked, refuse_existing_file, whole_file, whole_folder


def test_a_place_is_held_by_one_writer_and_free_after_it(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with (
        locked(out),
        pytest.raises(InputError, match=r"out is being written by another run; name another, or wait"),
        locked(out),
    ):
        pytest.fail("held twice")
    with locked(out):
        pass
    assert list(out.parent.iterdir()) == []


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")

    def write(fails: bool) -> None:
        with whole_file(path) as partial:
            partial.write_text("new")
            if fails:
                raise KeyError

    with pytest.raises(KeyError):
        write(fails=True)
    assert [one.read_text() for one in tmp_path.iterdir()] == ["old"]
    write(fails=False)
    assert [one.read_text() for one in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_takes_the_place_of_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    if not exchanges:
        monkeypatch.setattr("sim.results.whole_files._exchanged", lambda one, other: False)
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    left_over = tmp_path / ".out.partial"  # of a run that was killed
    left_over.mkdir()
    (left_over / "torn").touch()
    with whole_folder(out) as partial:
        (partial / "new").touch()
        assert [path.name for path in out.iterdir()] == ["old"]
    assert [path.name for path in out.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_cannot_be_written_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written: Not a directory"):
        check_writable(tmp_path / "file" / "folder")
    with pytest.raises(InputError, match="cannot be written"), locked(tmp_path / "file" / "x" / "out"):
        pass
    with pytest.raises(InputError, match="exists; name another file, or add --force"):
        refuse_existing_file(tmp_path / "file", force=False)
    with pytest.raises(InputError, match="is a folder; name a file"):
        refuse_existing_file(tmp_path, force=True)
