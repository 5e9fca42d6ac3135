from __future__ import annotations

import math
from pathlib import Path

import pytest

from sim.inputs.errors import InputError
from sim.reading.yaml_lines import dotted, parse_yaml, read_yaml


def refused(text: str) -> str:
    with pytest.raises(InputError) as refusal:
        parse_yaml(text, "box.yaml")
    return str(refusal.value)


def test_each_key_has_the_line_where_it_stands() -> None:
    document = parse_yaml(
        "name: box\nparts:\n  gpu: {kind: gpu,\n        count: 4}\nwires:\n  - from: gpu\n    to: host\n"
    )
    assert document.data["parts"]["gpu"] == {"kind": "gpu", "count": 4}
    assert document.line_of(("parts", "gpu", "count")) == 4
    assert document.line_of(("wires", 0, "to")) == 7
    assert document.line_of(("wires", 0, "missing")) == 6, "what is missing is missed where its block begins"
    assert document.line_of(("nothing", "like", "it")) == 1


def test_a_key_is_shown_as_a_person_would_write_it() -> None:
    assert dotted(("wires", 2, "link")) == "wires[2].link"
    assert dotted(()) == ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e6", 1e6), ("1_000", 1000), ("2.5", 2.5), ("-3", -3), ("0x10", 16), ("010", 10), ("1:30", "1:30"),
        ("true", True), ("off", False), ("null", None), ("", None), ("'1e6'", "1e6"),
        ("450 GB/s", "450 GB/s"),
        (".inf", math.inf), ("-.inf", -math.inf), ("2024-01-31", "2024-01-31"), ("[1, a]", [1, "a"]),
    ],
)  # fmt: skip
def test_a_value_is_what_it_looks_like(text: str, value: object) -> None:
    assert parse_yaml(f"key: {text}").data["key"] == value


def test_an_alias_stands_for_its_value() -> None:
    assert parse_yaml("a: &x {b: 1}\nc: *x\n").data["c"] == {"b": 1}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "box.yaml: is empty; a mapping of keys to values is needed"),
        ("# nothing\n", "box.yaml: is empty"),
        ("- a\n- b\n", "box.yaml:1: is a list at its top level"),
        ("words", "box.yaml:1: is a single value at its top level"),
        ("name: a\nparts:\n\tgpu: 1\n", "box.yaml:3: a tab cannot indent YAML; use spaces"),
        ("a: [1, 2\nb: 3\n", "box.yaml:1: the [ of this line is never closed; write ] where it ends"),
        ("a: 1\nb: {c: {d: 1}\n", "box.yaml:2: the { of this line is never closed; write } where it ends"),
        ("a:\n  - {b: 1\n  - {b: 2}\n", "box.yaml:2: the { of this line is never closed"),
        ("a: [1, 2}\n", "box.yaml:1: the [ of this line is never closed"),
        ("a: 'x\nb: 1\n", "box.yaml:1: the ' of this line is never closed"),
        ("# {\na: don't {\nb: c: [1]\n", "box.yaml:3: is not valid YAML"),
        ("a: *x\n", "box.yaml:1: is not valid YAML"),
        ("a: 1\n---\nb: 2\n", "box.yaml:2: is not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", "box.yaml:1: a: tag"),
        ("a: !mine 3\n", "box.yaml:1: a: tag '!mine' is not read; write plain values"),
        ("<<: {a: 1}\n", "'<<' merges are not read"),
        ("? [a, b]\n: 3\n", "a key is a list or a mapping"),
        ("a: &a [*a]\n", "nested too deeply"),
        ("a: " + "[" * 50 + "]" * 50, "nested too deeply"),
        ("a: " + "[" * 20_000 + "]" * 20_000, "nested too deeply"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(text: str, says: str) -> None:
    assert says in refused(text)


def test_all_duplicate_keys_are_named_at_once() -> None:
    text = refused("name: a\nparts:\n  gpu: {kind: gpu, kind: host}\nname: b\n")
    assert "box.yaml:3: parts.gpu.kind: is given twice, first on line 3; keep one of them" in text
    assert "box.yaml:4: name: is given twice, first on line 1; keep one of them" in text


def test_a_bomb_of_aliases_is_refused_before_it_goes_off() -> None:
    levels = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    levels += [
        f"{name}: &{name} [{', '.join(['*' + before] * 9)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    assert "aliases multiply, so write fewer of them" in refused("\n".join(levels))


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    cases = {
        "none.yaml": "there is no such file",
        ".": "is a directory",
        "binary.yaml": "is a binary file",
        "latin.yaml": "is not UTF-8 text",
        "huge.yaml": "at most 4000000 are read",
    }
    (tmp_path / "binary.yaml").write_bytes(b"\x00\x01\x02")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    (tmp_path / "huge.yaml").write_bytes(b"x" * 4_000_001)
    for name, says in cases.items():
        with pytest.raises(InputError, match=says) as refusal:
            read_yaml(tmp_path / name)
        assert str(tmp_path) in str(refusal.value)
        assert refusal.value.exit_status == 2


def test_a_file_saved_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfname: box\n")
    assert read_yaml(tmp_path / "bom.yaml").data == {"name": "box"}
