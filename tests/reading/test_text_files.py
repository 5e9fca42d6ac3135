from __future__ import annotations

from pathlib import Path

import pytest

from sim.calibration.collective_points import read_points
from sim.inputs.errors import InputError
from sim.reading.expert_counts import read_expert_counts
from sim.reading.huggingface import read_model
from sim.reading.measurements import read_measurements
from sim.reading.text_files import shown_header, text_of
from sim.reading.traces import read_trace
from sim.reading.yaml_lines import read_yaml


@pytest.mark.parametrize("read", [read_yaml, read_model, read_measurements, read_trace, read_expert_counts])
def test_a_device_without_an_end_is_no_file(read) -> None:
    with pytest.raises(InputError, match="/dev/zero: cannot be read: is a device"):
        read(Path("/dev/zero"))


def test_no_more_is_read_than_a_description_needs(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a" * 100)
    assert text_of(path, "a YAML file", 100) == "a" * 100
    with pytest.raises(InputError, match="at most 99 are read"):
        text_of(path, "a YAML file", 99)


def test_a_name_that_is_too_long_is_shortened_in_the_message() -> None:
    with pytest.raises(InputError, match=r"a{57}\.\.\.: cannot be read: File name too long"):
        text_of(Path("a" * 5000), "a YAML file", 100)


@pytest.mark.parametrize("text", ["root:x:0:0:root:/root:/bin/bash\n", "s3cret\n", "--KEY, x--\nabc\n"])
def test_a_file_that_is_no_table_is_not_repeated(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    for read in (read_measurements, read_trace, lambda path: list(read_points([path]))):
        with pytest.raises(InputError, match="its first line is no header of a table") as refusal:
            read(path)
        assert text.split()[0] not in str(refusal.value)


def test_the_columns_of_a_table_are_named() -> None:
    assert shown_header(["arrival_s", "tokens (out)"]) == "arrival_s, tokens (out)"
