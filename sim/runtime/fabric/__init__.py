"""Links and the transfers that share them, on the clock.

Rates are max-min fair, worked out again only for what a change can reach. Knows nothing of engines: a
transfer is an amount of bytes on each link, and its owner hears that it ended or that its rate changed.
"""

from sim.runtime.fabric.fabric import Fabric, Transfer, Watcher

__all__ = ["Fabric", "Transfer", "Watcher"]
