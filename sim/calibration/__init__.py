"""Fits of constants to measurements, and their errors on what no fit saw. No clock, no scenario."""
