"""The description of one run: everything it depends on but the seed; loading it and changing it.

The model is in `scenario.py`; a file becomes one in `loading.py`, and another one in `changes.py`. Names and
paths are resolved in `named_parts.py`, rules by name in `policy_fields.py`, and what a scenario names of its
topology is looked for in `references.py`. Knows no clock, and not which GPUs serve what: see
`sim.deployment`.
"""

from sim.scenario.changes import with_changes
from sim.scenario.loading import load_scenario
from sim.scenario.scenario import HandOverRule, Pool, Scenario

__all__ = ["HandOverRule", "Pool", "Scenario", "load_scenario", "with_changes"]
