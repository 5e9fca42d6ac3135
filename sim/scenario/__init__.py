"""The description of one run."""

from sim.scenario.changes import with_changes
from sim.scenario.loading import load_scenario
from sim.scenario.scenario import HandOverRule, Pool, Scenario

__all__ = ["HandOverRule", "Pool", "Scenario", "load_scenario", "with_changes"]
