"""What collectives cost: the library's choice, its algorithms as demands on links and as graphs of sends."""

from sim.cost.collectives.choice import CollectiveTiming, collective

__all__ = ["CollectiveTiming", "collective"]
