"""The fabric: links and the transfers that share them, on the clock.

A transfer is bytes on links, whatever it is for. Nothing here knows collectives (but `play_sends`, which
checks them), engines, requests or files.
"""

from sim.runtime.fabric.fabric import Fabric, Transfer, Watcher

__all__ = ["Fabric", "Transfer", "Watcher"]
