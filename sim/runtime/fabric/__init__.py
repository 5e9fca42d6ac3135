"""The fabric: links and the transfers that share them, on the clock.

A transfer is bytes on links, whatever it is for. Rates are max-min fair, worked out again
only for what a change can reach. Knows nothing of collectives (but `play_sends`, which checks them), engines,
requests and files.
"""

from sim.runtime.fabric.fabric import Fabric, Transfer, Watcher

__all__ = ["Fabric", "Transfer", "Watcher"]
