"""The description of one run."""

from sim.scenario.scenario import HandOverRule, Pool, Scenario, load_scenario, with_changes

__all__ = ["HandOverRule", "Pool", "Scenario", "load_scenario", "with_changes"]
