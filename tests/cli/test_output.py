"""What subcommands print: tables, sizes, prefixes."""

from __future__ import annotations

import pytest

from sim.cli.output import print_table, si, size_bytes
from sim.inputs.errors import InputError


@pytest.mark.parametrize(("written", "n_bytes"), [
    ("8", 8), ("1K", 1024), ("1.5k", 1536), ("8G", 8 * 2**30), ("8 GiB", 8 * 2**30), ("8GB", 8e9),
    ("64 B", 64),
])  # fmt: skip
def test_sizes_are_read_as_nccl_tests_reads_them(written: str, n_bytes: float) -> None:
    assert size_bytes(written, "-b") == n_bytes


@pytest.mark.parametrize("written", ["", "-8", "8X", "0", "1e400", "99999999T"])
def test_what_is_no_size_is_refused(written: str) -> None:
    with pytest.raises(InputError, match="-b"):
        size_bytes(written, "-b")


@pytest.mark.parametrize(("value", "unit", "shown"), [
    (0.0, "s", "0 s"), (950e-9, "s", "950 ns"), (2.5, "s", "2.5 s"), (4096.0, "s", "4.1e+03 s"),
    (25e9, "B/s", "25 GB/s"), (0.5, "B", "0.5 B"), (float("inf"), "B/s", "inf B/s"), (1e6, "B/s", "1 MB/s"),
])  # fmt: skip
def test_prefixes_keep_numbers_readable(value: float, unit: str, shown: str) -> None:
    assert si(value, unit) == shown


def test_a_piped_table_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["a", "b"], [["x" * 300, 1], ["[bold]", 2.5]])
    out = capsys.readouterr().out
    assert "x" * 300 in out
    assert "[bold]" in out
