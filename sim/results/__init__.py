"""Rows of a run, and the numbers computed from them: metrics, percentiles, causes, laws that every run obeys.

A table is plain columns; a metric is a function of rows; what was published stands beside what was simulated
in one type of row. Knows nothing of how a run came about.
"""
