"""What a run is called, and the text of its scenario."""

from __future__ import annotations

from typing import Any


def scenario_text(scenario: Any) -> str:
    """The whole scenario as YAML, defaults included."""
    import yaml

    described = scenario.model_dump(mode="json", by_alias=True, exclude_none=True)
    text: str = yaml.safe_dump(described, sort_keys=False, allow_unicode=True, width=110)
    return text


def title_of(scenario: Any) -> str:
    """What the report is called."""
    models = dict.fromkeys(str(model.name) for model in getattr(scenario, "models", ()) or (scenario.model,))
    return f"{', '.join(models)} on {scenario.topology.name}, {scenario.topology.servers} node(s)"
