"""Links and the transfers that share them, on the clock."""

from sim.runtime.fabric.fabric import Fabric, Transfer, Watcher

__all__ = ["Fabric", "Transfer", "Watcher"]
