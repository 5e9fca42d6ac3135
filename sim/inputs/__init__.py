"""Frozen, validated descriptions: hardware, topologies, models, engines, workloads, faults, units, refusals.

A field says its unit, its bounds and its default here, so that a Python scenario and a YAML file are checked
by the same line. Knows no files and no time: text is read in `reading`, and what happens is the runtime's.
"""
