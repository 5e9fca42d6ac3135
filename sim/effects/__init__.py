"""What came of every key that a scenario sets: it acted, it did not bind, or nothing read it.

A table by key (`engine_keys.py`, `model_keys.py`, `topology_keys.py`, `workload_keys.py`, `service_keys.py`) says
how to tell it from the rows and the deployment of a run that has ended (`ran.py`). Knows nothing of the clock: no
access is traced while time passes.
"""
