"""Measured serving runs beside simulated ones, a module for each kind of table.

A module turns the rows of a published table into scenarios, runs them and compares what the table reports.
Knows nothing of other sections, and no clock: it calls `simulate`.
"""
