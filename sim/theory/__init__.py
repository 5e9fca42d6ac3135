"""Closed forms that runs are held against: queues, pipelines, sizes of NVLink domains.

Each function is a formula with its source and the conditions under which it holds. Knows nothing of the
simulator, whose numbers it must be able to contradict.
"""
