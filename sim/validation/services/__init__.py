"""Measured serving runs beside simulated ones, a module for each kind of table."""
