"""Rows and the numbers computed from them; knows nothing of how they came about."""
