"""What came of every key that a scenario sets: it acted, it did not bind, or nothing read it.

A table by key (`words.py`, of `engine_keys.py` and its neighbours) says how to tell it from the rows and the
deployment of a run that has ended (`ran.py`). Knows nothing of the clock: no access is traced while time
passes.
"""
