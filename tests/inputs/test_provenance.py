from __future__ import annotations

from sim.inputs.provenance import Provenance, provenance_of


def test_a_constant_has_the_entry_of_its_key_or_of_the_nearest_block_around_it() -> None:
    one, block, rest = (Provenance(tag="assumed", source=name) for name in ("one", "block", "rest"))
    known = {"flops.bf16": one, "flops": block, "*": rest}
    assert provenance_of(known, "flops.bf16") is one
    assert provenance_of(known, "flops.fp8") is block
    assert provenance_of(known, "sms") is rest
    assert provenance_of({"flops": block}, "sms") is None


def test_it_prints_as_its_tag_and_source() -> None:
    assert str(Provenance(tag="measured", source="a paper")) == "measured: a paper"
