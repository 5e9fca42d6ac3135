"""A discrete-event simulator of distributed LLM inference: one graph, one clock, all traffic.

The names here are the ones that scripts rely on. Each is imported when it is first asked for, so that
`import sim` costs next to nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

from sim.version import __version__ as __version__

TYPE_CHECKING = False  # as type checkers know it; `typing` is most of the time before `sim` hears of signals
if TYPE_CHECKING:
    from typing import Any

    from sim.catalog import (
        list_models,
        list_topologies,
        list_workloads,
        load_model,
        load_topology,
        load_workload,
    )
    from sim.inputs.errors import InfeasibleError, InputError, UnfinishedError
    from sim.inputs.model import Model
    from sim.inputs.topology import Topology
    from sim.inputs.workload import Workload
    from sim.microbenchmark import collective, kernel
    from sim.runtime.shared_link import link
    from sim.runtime.small_systems import barrier, fork_join, queue, tandem
    from sim.scenario import Scenario, load_scenario, with_changes
    from sim.simulate import Result, simulate
    from sim.studies.capacity import Capacity, capacity
    from sim.studies.compare import Comparison, compare
    from sim.studies.recommend import Recommendation, recommend
    from sim.studies.sensitivity import Sensitivity, sensitivity
    from sim.studies.sweep import Sweep, sweep
    from sim.timelines import timeline
    from sim.views.saved import SavedResult, load_result

_HOME = {
    "barrier": "sim.runtime.small_systems",
    "collective": "sim.microbenchmark",
    "fork_join": "sim.runtime.small_systems",
    "kernel": "sim.microbenchmark",
    "link": "sim.runtime.shared_link",
    "list_models": "sim.catalog",
    "list_topologies": "sim.catalog",
    "list_workloads": "sim.catalog",
    "load_model": "sim.catalog",
    "load_topology": "sim.catalog",
    "load_workload": "sim.catalog",
    "InfeasibleError": "sim.inputs.errors",
    "InputError": "sim.inputs.errors",
    "UnfinishedError": "sim.inputs.errors",
    "Model": "sim.inputs.model",
    "Topology": "sim.inputs.topology",
    "Workload": "sim.inputs.workload",
    "queue": "sim.runtime.small_systems",
    "tandem": "sim.runtime.small_systems",
    "Scenario": "sim.scenario",
    "SavedResult": "sim.views.saved",
    "load_result": "sim.views.saved",
    "load_scenario": "sim.scenario",
    "with_changes": "sim.scenario",
    "Result": "sim.simulate",
    "simulate": "sim.simulate",
    "Capacity": "sim.studies.capacity",
    "capacity": "sim.studies.capacity",
    "Comparison": "sim.studies.compare",
    "compare": "sim.studies.compare",
    "Recommendation": "sim.studies.recommend",
    "recommend": "sim.studies.recommend",
    "Sensitivity": "sim.studies.sensitivity",
    "sensitivity": "sim.studies.sensitivity",
    "Sweep": "sim.studies.sweep",
    "sweep": "sim.studies.sweep",
    "timeline": "sim.timelines",
}

__all__ = [
    "Capacity",
    "Comparison",
    "InfeasibleError",
    "InputError",
    "Model",
    "Recommendation",
    "Result",
    "SavedResult",
    "Scenario",
    "Sensitivity",
    "Sweep",
    "Topology",
    "UnfinishedError",
    "Workload",
    "barrier",
    "capacity",
    "collective",
    "compare",
    "fork_join",
    "kernel",
    "link",
    "list_models",
    "list_topologies",
    "list_workloads",
    "load_model",
    "load_result",
    "load_scenario",
    "load_topology",
    "load_workload",
    "queue",
    "recommend",
    "sensitivity",
    "simulate",
    "sweep",
    "tandem",
    "timeline",
    "with_changes",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sim' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps `sim.simulate` the function, where importing the module of that name would put the module."""

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and name in _HOME:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
