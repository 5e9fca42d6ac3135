"""Rules by name: a name, a name with knobs, or a script's callable; and back to what a file would say."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from sim.policy.placement import PLACEMENTS
from sim.policy.reloading import RELOADS
from sim.policy.routing import ROUTERS
from sim.scenario.policy_fields import KernelRule, PlacementRule, ReloadingRule, RouterRule

FIELDS = {"router": (RouterRule, ROUTERS), "placement": (PlacementRule, PLACEMENTS)}
FIELDS["reloading"] = (ReloadingRule, RELOADS)


@pytest.mark.parametrize("name", FIELDS)
def test_every_rule_without_needed_knobs_goes_to_text_and_back(name: str) -> None:
    field, rules = FIELDS[name]
    adapter: TypeAdapter[Any] = TypeAdapter(field)
    for kind, rule in rules.items():
        try:
            made = adapter.validate_python(kind)
        except ValidationError:
            continue  # it needs a knob
        assert isinstance(made, rule)
        written = adapter.dump_python(made)
        assert written["kind"] == kind
        assert adapter.validate_python(written) == made


def test_a_callable_of_a_script_passes_and_is_written_by_its_name() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(RouterRule)
    assert adapter.validate_python(len) is len
    assert adapter.dump_python(len) == {"kind": "a script's len"}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("round_robbin", "kind = 'round_robbin': must be one of .*; did you mean 'round_robin'"),
        (7, "7: must be the name of a router"),
        ({"kind": "round_robin", "speed": 3}, "'speed' is not a knob of round_robin; known are no knobs"),
    ],
)
def test_a_wrong_rule_is_refused_with_the_ones_there_are(written: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(RouterRule).validate_python(written)


def test_kernels_are_formulas_or_a_table() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(KernelRule)
    made = adapter.validate_python("formula")
    assert adapter.dump_python(made) == "formula"
    assert adapter.validate_python({"kind": "formula"}) is made
    with pytest.raises(ValidationError, match="must be formula, or"):
        adapter.validate_python({"kind": "measured"})


@pytest.mark.parametrize("written", [float("nan"), float("inf"), True])
def test_a_knob_that_is_no_number_is_refused(written: object) -> None:
    with pytest.raises(ValidationError, match=r"requests_per_hop = (nan|inf|true): must be"):
        TypeAdapter(RouterRule).validate_python({"kind": "nearest", "requests_per_hop": written})
