"""What happens when: the only folder in which time passes and state changes.

The life of a request (`service.py`), faults, and the assembly of a run (`build.py`); links, engines and KV
caches have folders of their own. Knows nothing of files and charts: it appends rows, and others read them.
"""
