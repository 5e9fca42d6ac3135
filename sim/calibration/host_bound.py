"""Tables of kernels that time the host and not the kernel, found by rule.

A benchmark that launches kernel after kernel, or waits for the host between them, adds the host's time to
every call, large or small. Against another table of the same kernel that has no such time - of the GPU's
stand-in under the same engine, or of another engine on the same GPU - it takes so many microseconds more
whatever the work. A slower kernel takes a share more, and the difference grows with the work. In CUDA graphs,
as engines decode, that time is not there: such a table is not fitted, and the kernel takes the parameters of
the other one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from sim.calibration.kernel_fit import UNGRAPHED
from sim.calibration.stand_ins import stand_in_of
from sim.inputs.hardware import Gpu
from sim.reading.measurements import Measurement

Key = tuple[str, str, str, str]  # engine, kernel, GPU, format

# assumed: what tells the host from a slower kernel. It names the same measured tables at 1.5 times each.
MIN_EXCESS_S = 20e-6  # one more kernel, as for quantising its input, starts within 3 to 10 us
MIN_SHARE = 0.3  # of the other table's time, what the shortest calls take more
MIN_GROWTH = 1.3  # of the other table's time, from the shortest quarter of calls to the next
MAX_DRIFT = 0.3  # of the difference, what it changes by meanwhile
MAX_SPREAD = 0.6  # of the difference, between its quartiles within a quarter of the calls
MIN_SHARED = 40  # points that both tables have
WAITS = "waits for the host"  # how a shipped set says that its GPU's table was left out


@dataclass(frozen=True, slots=True)
class HostBound:
    """A table that waits for the host: whose parameters it takes, and the seconds that it has too many."""

    lender: Key
    excess_s: float


def host_bound(groups: Mapping[Key, Sequence[Measurement]]) -> dict[Key, HostBound]:
    """The tables that wait for the host. One whose only flat difference is to another such table is kept."""
    seconds = {
        key: {_sizes(one): one.seconds for one in points}
        for key, points in groups.items()
        if key[1] != "gemm" or key[3] not in UNGRAPHED  # their host time is a parameter of its own
    }
    named: dict[Key, list[HostBound]] = {}
    for key, own in seconds.items():
        for other in _kin(key, seconds):
            excess_s = _flat_excess_s(own, seconds[other])
            if excess_s:
                named.setdefault(key, []).append(HostBound(other, excess_s))
    return {
        key: lender
        for key, found in named.items()
        if (lender := next((one for one in found if one.lender not in named), None)) is not None
    }


def waits_for_host(gpu: Gpu, engine: str, op: str, variant: str) -> bool:
    """Whether the shipped set of a kernel is another's because the GPU's own table waits for the host."""
    known = gpu.kernels
    if known is None or engine in known.engines:
        return False
    said = known.provenance.get(f"{op}.{variant}")
    return said is not None and WAITS in said.source


def lender_in_words(key: Key, lender: Key) -> str:
    """Whose parameters a table takes: a GPU, under another engine if that is what differs.

    >>> own = ("vllm", "mla_decode", "h200-sxm", "fp8")
    >>> lender_in_words(own, ("trtllm", "mla_decode", "h200-sxm", "fp8"))
    'h200-sxm under trtllm'
    """
    return lender[2] if lender[0] == key[0] else f"{lender[2]} under {lender[0]}"


def _kin(key: Key, tables: Mapping[Key, Any]) -> list[Key]:
    """The stand-in's table first, then those of other engines on the same GPU."""
    engine, op, gpu, variant = key
    others = [(engine, op, stand_in_of(gpu, op), variant)]
    others += [one for one in tables if one[0] != engine and one[1:] == key[1:]]
    return [one for one in others if one in tables]


def _flat_excess_s(own: Mapping[Any, float], other: Mapping[Any, float]) -> float:
    """What every call takes more than in the other table; 0 where that grows with the work or is little."""
    shared = sorted((other[sizes], own[sizes] - other[sizes]) for sizes in own.keys() & other.keys())
    if len(shared) < MIN_SHARED:
        return 0.0
    quarter = len(shared) // 4
    shortest, longer = shared[:quarter], shared[quarter : 2 * quarter]
    (time_s, excess_s), (later_s, later_excess_s) = (
        (median(seconds for seconds, _ in part), median(more for _, more in part))
        for part in (shortest, longer)
    )
    is_constant = (
        excess_s > max(MIN_EXCESS_S, MIN_SHARE * time_s)
        and later_s > MIN_GROWTH * time_s
        and abs(later_excess_s - excess_s) < MAX_DRIFT * excess_s
        and all(_spread([more for _, more in part]) < MAX_SPREAD * excess_s for part in (shortest, longer))
    )
    return excess_s if is_constant else 0.0


def _spread(values: Sequence[float]) -> float:
    low, _, high = quantiles(values)
    return high - low


def _sizes(one: Measurement) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, str(value)) for name, value in one.sizes.items()))
