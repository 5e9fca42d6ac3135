"""What the closed forms can be asked: the bounds of every argument, by its name.

A formula beyond its bounds gives a number all the same: 1.6 of all customers wait, a mean is negative, a loop
never ends. `bounded` refuses such a question with the argument, its value and its bound.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from math import inf, isfinite
from numbers import Real
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Bound(NamedTuple):
    """From `minimum` to `maximum`; above `minimum`, or below `maximum`, where that end is open."""

    minimum: float = 0.0
    maximum: float = inf
    is_whole: bool = False
    open_below: bool = False
    open_above: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.is_whole else "a number"
        low = f"above {self.minimum:g}" if self.open_below else f"at least {self.minimum:g}"
        if self.maximum == inf:
            return f"{kind}, {low}"
        return f"{kind}, {low} and {'below' if self.open_above else 'at most'} {self.maximum:.10g}"

    def holds(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
            return False
        number = float(value)
        if self.is_whole and not number.is_integer():
            return False
        low = number > self.minimum if self.open_below else number >= self.minimum
        return low and (number < self.maximum if self.open_above else number <= self.maximum)


ANY, POSITIVE = Bound(), Bound(open_below=True)
EFFICIENCY = Bound(maximum=1.0, open_below=True)
SHARE, BELOW_ONE = Bound(maximum=1.0), Bound(maximum=1.0, open_above=True)
MAX_COUNTED = 1e7  # states or servers that a sum goes through one by one


def _counted(minimum: float, maximum: float = MAX_COUNTED) -> Bound:
    return Bound(minimum, maximum, is_whole=True)


BOUNDS: Mapping[str, Bound] = {
    # queues
    "arrival_rate": ANY, "service_rate": POSITIVE, "service_rates": POSITIVE, "rate": POSITIVE,
    "W": ANY, "cv2": ANY, "ca2": ANY, "cs2": ANY, "load": ANY, "patience_s": POSITIVE,
    "servers": _counted(1), "places": _counted(1), "again": BELOW_ONE, "rho": BELOW_ONE,
    "choices": _counted(1, 1e9), "users": _counted(0, 1e9), "response_s": ANY, "think_s": ANY,
    "each_s": ANY, "fixed_s": ANY, "batch": POSITIVE, "ranks": _counted(1, 1e15),
    "n": POSITIVE, "contention": SHARE, "coherence": ANY,
    "mean": ANY, "percent": Bound(maximum=100.0, open_above=True),
    "mean_s": POSITIVE, "phases": _counted(1, 1e4), "size_s": ANY, "deviation": ANY, "after_s": ANY,
    "batch_cv2": ANY, "vacation_s": ANY, "vacation_cv2": ANY, "delayed": Bound(maximum=1.0, open_below=True),
    "beta": ANY, "failure_rate": POSITIVE, "repair_rate": POSITIVE, "crews": _counted(1),
    "arrival_rates": ANY, "cv2s": ANY, "demands_s": ANY, "mean_bytes": POSITIVE,
    "flow_bytes_per_s": POSITIVE, "through_load": BELOW_ONE, "loads": BELOW_ONE,
    "link_loads_bytes_per_s": ANY, "link_capacities_bytes_per_s": POSITIVE,
    # queues of LLM serving
    "seats": _counted(1), "prompt_tokens": ANY, "output_tokens": POSITIVE, "token_budget": POSITIVE,
    "full_step_s": POSITIVE, "token_s": ANY, "kv_tokens": POSITIVE, "step_s": POSITIVE, "prompts": ANY,
    "outputs": POSITIVE, "kv_token_s": ANY,
    # pipelines
    "stage_s": ANY, "stages": _counted(1, 1e15), "micro_batches": _counted(1, 1e15),
    "in_flight": Bound(1.0), "work_s": ANY, "overhead_s": POSITIVE,
    # NVLink domains
    "flop_per_s": POSITIVE, "hbm_bytes_per_s": POSITIVE, "hbm_bytes": POSITIVE,
    "link_bytes_per_s": POSITIVE, "hidden": POSITIVE, "intermediate": POSITIVE, "layers": _counted(1),
    "heads": _counted(1), "kv_heads": _counted(1), "head_dim": _counted(1), "vocabulary": _counted(1),
    "domain": Bound(1.0), "bytes_each": POSITIVE, "latency_s": ANY, "weight_bytes": ANY,
    "kv_bytes_per_token": POSITIVE, "n_bytes": ANY, "context": ANY, "head_s": ANY,
    "experts": _counted(1), "chosen": _counted(1), "tokens": ANY, "parameters": ANY,
    "weight_bytes_each": POSITIVE, "kv_bytes_each": POSITIVE, "activation_bytes_each": POSITIVE,
    "hbm_efficiency": EFFICIENCY, "flop_efficiency": EFFICIENCY, "link_efficiency": EFFICIENCY,
    "all_reduces": ANY,
    "needed": _counted(0, 1e5), "units": _counted(0, 1e5), "unavailability": SHARE,
}  # fmt: skip
SEVERAL = frozenset(
    "service_rates stage_s arrival_rates cv2s demands_s loads link_loads_bytes_per_s "
    "link_capacities_bytes_per_s prompts outputs".split()
)
"""Arguments that are sequences: the bound is of every value."""


def bounded(function: Callable[P, R]) -> Callable[P, R]:
    """The function, refusing arguments beyond their bounds with a ValueError.

    >>> @bounded
    ... def doubled(cv2):
    ...     return 2.0 * cv2
    >>> doubled(-1.0)
    Traceback (most recent call last):
    ValueError: doubled: cv2 = -1.0: must be a number, at least 0
    """
    signature = inspect.signature(function)

    @wraps(function)
    def asked(*args: P.args, **kwargs: P.kwargs) -> R:
        check(function.__name__, signature.bind(*args, **kwargs).arguments)
        return function(*args, **kwargs)

    return asked


def check(what: str, values: Mapping[str, Any]) -> None:
    """Raise ValueError for the first of these values that lies beyond the bound of its name."""
    for name, value in values.items():
        bound = BOUNDS.get(name)
        if bound is None:
            continue
        if name in SEVERAL:
            each: Sequence[Any] = value
            if not len(each):
                raise ValueError(f"{what}: {name} is empty: must have one value or more")
        else:
            each = (value,)
        for one in each:
            if not bound.holds(one):
                raise ValueError(f"{what}: {name} = {one!r}: must be {bound}")
