"""Recorded request traces: told apart by their header, read row by row, bad rows counted and not fatal."""

from __future__ import annotations

from sim.reading.traces.reading import read_trace
from sim.reading.traces.recorded import RecordedTrace, selected

__all__ = ["RecordedTrace", "read_trace", "selected"]
