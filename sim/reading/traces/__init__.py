"""Recorded request traces: told apart by their header, read row by row, bad rows counted and not fatal.

A family of traces is a set of column names and their units; what is read is plain columns of arrivals,
lengths and shared prefixes. Knows nothing of workloads, which choose among the rows and scale them.
"""

from __future__ import annotations

from sim.reading.traces.how import How
from sim.reading.traces.reading import Wanted, read_trace
from sim.reading.traces.recorded import RecordedTrace, selected

__all__ = ["How", "RecordedTrace", "Wanted", "read_trace", "selected"]
