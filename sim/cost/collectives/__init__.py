"""What collectives cost: the library's choice, its algorithms as demands on links and as graphs of sends.

NCCL's and an engine's own choice of algorithm and protocol, measured curves where a library has them, and
the exchange of tokens between experts. Knows nothing of models, requests or the clock.
"""

from sim.cost.collectives.choice import CollectiveTiming, collective

__all__ = ["CollectiveTiming", "collective"]
