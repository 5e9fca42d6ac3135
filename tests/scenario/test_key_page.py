"""The page of keys has all keys, says what each does, and is what its command prints."""

from __future__ import annotations

from pathlib import Path

from sim.scenario import key_page
from sim.scenario.key_effects import ENGINE, KERNELS, MACHINE, MODEL, SCENARIO, WORKLOAD

PAGE = Path(__file__).parents[2] / "docs" / "keys.md"


def test_every_key_has_an_effect_and_every_effect_a_key() -> None:
    described = {one.__name__: one for one, _ in key_page._places()}
    lacking = [
        f"{name}.{key}"
        for name, one in described.items()
        for key in one.model_fields
        if key_page.effect_of(one, key) is None and key not in ("kind", "provenance")
    ]
    assert not lacking, "write what these do in sim/scenario/key_effects.py"
    bases = {base.__name__ for one in described.values() for base in one.__mro__}
    known = {
        (base.__name__, key) for one in described.values() for base in one.__mro__ for key in one.model_fields
    }
    for chapter in (SCENARIO, ENGINE, WORKLOAD, MODEL, MACHINE, KERNELS):
        for name, keys in chapter.items():
            assert name in bases
            assert not {key for key in keys if (name, key) not in known}


def test_the_page_is_what_its_command_prints() -> None:
    assert PAGE.read_text(encoding="utf-8") == key_page.keys_page(), "sim schema keys > docs/keys.md"


def test_units_bounds_and_defaults_are_those_of_the_schema() -> None:
    page = key_page.keys_page()
    assert "| `bytes_per_s` | a number | bytes/s | required | capacity of one direction |" in page
    assert "| `max_num_seqs` | a whole number, from 1 to 1e+12 | sequences | unset |" in page
    assert "| `watermark` | a number, from 0 below 1 |  | `0` |" in page
