"""Closed forms that a run is held against; they know nothing of the simulator."""
