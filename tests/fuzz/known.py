"""Faults that broken inputs are known to lead to and that are not mended yet: a kind, and a function on the
way.

To be empty.
"""

from __future__ import annotations

from tests.fuzz.worker import Fault

KNOWN: tuple[tuple[str, str], ...] = (
    ("hang", ""),  # traffic, layers and drafts by the thousand million are begun: a run has no budget
    ("memory", ""),
    ("traceback AttributeError", "_built"),  # own_graph that is no graph
    ("traceback AttributeError", "_native_weights"),
    ("traceback AttributeError", "_own"),
    ("traceback IndexError", "_syntax_problem"),
    ("traceback KeyError", "<lambda>"),  # own_graph that is a mapping and no graph
    ("traceback KeyError", "network_of"),
    ("traceback OSError", "_existing"),
    ("traceback OverflowError", "_attention_prefill"),
    ("traceback OverflowError", "_changed"),
    ("traceback TypeError", "__init__"),  # a list in a cell of a measured table
    ("traceback TypeError", "_family"),
    ("traceback TypeError", "_named_things_are_loaded"),
    ("traceback TypeError", "formula"),
    ("traceback ValueError", "_change"),
    ("traceback ValueError", "_schedule_exactly"),
    ("traceback ValueError", "_set"),
    ("traceback ValueError", "_surrounds"),
    ("traceback ValueError", "lengths_by"),
    ("traceback ZeroDivisionError", "<listcomp>"),  # weights of experts that are all zero
)


def is_known(fault: Fault) -> bool:
    """Whether a fault is one of the list."""
    return any(
        fault.kind.startswith(kind) and (not name or name in fault.place.split()) for kind, name in KNOWN
    )
