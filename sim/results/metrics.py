"""The numbers of a run, from its rows, under the names of vLLM's serving benchmark (milliseconds, per-second
rates).

**Unfinished requests** count in every percentile as longer than any finished one, if the value in question
had not come by the end of the run; so do **aborted** ones, if it had not come when their client gave up or
their replica failed. So a percentile that falls among them is infinite, and never better than it would have
been had the run or the client gone on; `censored_*` says how many there are. Means and standard deviations
are of the known values alone and therefore too low when `censored_*` is not zero. Rejected requests have no
latencies. All three are counted, and count against every objective. An answer that ended at the engine's
`max_model_len` is finished; where there are such, `cut_answers` counts them.

**Warm-up** is cut only if asked for: all requests that arrive before the cut are left out, as are steps that
begin before it. **Throughput** is of the kept requests over the time from the first arrival among them to
the last finish (or to the end of a run that was stopped), so it includes the time to the first token and the
drain at the end. Tokens that an unfinished request got are counted, and its prompt once its first token is
out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sim.results.blame import BlameRecords, mean_causes
from sim.results.laws import backlog_growth_per_s, little, mser5, saturated
from sim.results.records import Records
from sim.results.spans import Durations

Floats = NDArray[np.float64]
Warmup = float | Literal["mser5"] | None

PERCENTILES = (50, 90, 95, 99, 99.9)
MORE_IS_BETTER = (
    "throughput", "goodput", "attainment", "hit_rate", "completed", "availability", "_per_mw", "_per_drawn_mw"
)  # fmt: skip
SLO_FIELDS = ("ttft_ms", "tpot_ms", "e2el_ms")


class Objectives(Protocol):
    """What a class of requests is promised, in ms; None is no promise (`sim.inputs.workload.Slo` is one)."""

    @property
    def ttft_ms(self) -> float | None: ...
    @property
    def tpot_ms(self) -> float | None: ...
    @property
    def e2el_ms(self) -> float | None: ...


def summary(
    records: Records,
    *,
    gpus: int | None = None,
    slos: Mapping[str, Objectives] | None = None,
    warmup: Warmup = None,
    cooldown: float | None = None,
    percentiles: Iterable[float] = (),
    blame: BlameRecords | None = None,
) -> dict[str, Any]:
    """All numbers of a run as one flat dictionary, `classes` excepted, which has one for each class, and
    `blame`, which has the mean ms by cause of each latency that has causes.

    `slos` are the objectives by class, under the empty name those of all classes that have none of their
    own. `warmup` leaves out that fraction of the requests, in order of arrival, or as many as MSER-5 finds
    in their latencies; `cooldown` leaves out a fraction of them at the end of that order. `percentiles` come
    beside the usual ones, under names such as `p99.9_ttft_ms`.
    ValueError for one outside 0 to 100. What cannot be measured (no requests, no second token, no
    objectives) is None, never NaN.
    """
    wanted = _percentiles(percentiles)
    rows = _Rows(records, warmup, cooldown)
    span_s = rows.end_s - rows.begin_s
    numbers: dict[str, Any] = {
        "completed": int(rows.finished.sum()),
        "unfinished": int((rows.status == "unfinished").sum()),
        "aborted": int((rows.status == "aborted").sum()),
        "rejected": int((rows.status == "rejected").sum()),
        "warmup_requests": rows.cut,
        **({"cooldown_requests": rows.cut_at_end} if cooldown else {}),
        "duration": span_s,
        "total_input_tokens": int(rows.prompt_tokens[~np.isnan(rows.first_token_s)].sum()),
        "total_generated_tokens": int(rows.generated_tokens.sum()),
    }
    numbers["request_throughput"] = _rate(numbers["completed"], span_s)
    numbers["output_throughput"] = _rate(numbers["total_generated_tokens"], span_s)
    both = numbers["total_input_tokens"] + numbers["total_generated_tokens"]
    numbers["total_token_throughput"] = _rate(both, span_s)
    for name in ("request_throughput", "output_throughput", "total_token_throughput"):
        numbers[f"{name}_per_gpu"] = numbers[name] / gpus if gpus and numbers[name] is not None else None
    numbers["kv_hand_over_bytes"] = float(records.hand_overs["n_bytes"].sum())

    met, promised = rows.objectives(slos or {})
    numbers["request_goodput"] = _rate(int(met.sum()), span_s) if promised.any() else None
    numbers["slo_attainment"] = float(met.sum() / promised.sum()) if promised.any() else None

    for name, values in rows.latencies.items():
        numbers |= _distribution(name, values, wanted)
    numbers |= _gaps(records, rows.begin_s if rows.cut else -math.inf, rows.until_s, wanted)
    mean_tpot_ms = numbers["mean_tpot_ms"]
    numbers["output_throughput_per_user"] = 1e3 / mean_tpot_ms if mean_tpot_ms else None

    prompted = int(rows.prompt_tokens[~np.isnan(rows.admitted_s)].sum())
    numbers["preemptions"] = int(rows.preemptions.sum())
    numbers["resubmissions"] = int(rows.resubmissions.sum())
    numbers["prefix_hit_rate"] = float(rows.cached_tokens.sum() / prompted) if prompted else None
    means = little(records)
    numbers["mean_concurrency"] = means.concurrency if means else None
    numbers["backlog_growth_per_s"] = backlog_growth_per_s(records)
    numbers["saturated"] = saturated(records)
    cut = int((rows.finished & (rows.generated_tokens < rows.output_tokens)).sum())
    if cut:
        numbers["cut_answers"] = cut
    numbers["classes"] = rows.by_class(met, promised, span_s, wanted)
    if blame is not None:
        numbers["blame"] = mean_causes(blame, rows.columns)
    return numbers


def objectives_kept(
    records: Records,
    slos: Mapping[str, Objectives] | None,
    warmup: Warmup = None,
    cooldown: float | None = None,
) -> tuple[Mapping[str, NDArray[Any]], NDArray[np.bool_], NDArray[np.bool_]]:
    """Columns of the requests that a summary counts, which of them keep all their objectives, and which have
    some.
    """
    rows = _Rows(records, warmup, cooldown)
    return rows.columns, *rows.objectives(slos or {})


def meets(numbers: Mapping[str, Any], slo: Mapping[str, float]) -> bool:
    """Whether a summary keeps every limit in `slo`, such as `{"p99_ttft_ms": 500}`.

    Throughputs (per megawatt too), goodputs and attainments must be at least their limit, all else at most.
    What could not be measured (None) keeps any limit, if anything was completed at all. KeyError for unknown
    names.

    >>> meets({"p99_ttft_ms": 400.0, "output_throughput": 90.0}, {"p99_ttft_ms": 500})
    True
    """
    for name, limit in slo.items():
        value = numbers[name]
        if value is None and numbers.get("completed") == 0:
            return False
        if value is None:
            continue
        if (value < limit) if more_is_better(name) else (value > limit):
            return False
    return True


def more_is_better(name: str) -> bool:
    """Whether an objective for this metric is a least value and not a largest one."""
    return any(word in name for word in MORE_IS_BETTER)


def percent_name(percent: float) -> str:
    """As vLLM's benchmark names a percentile.

    >>> percent_name(99.0), percent_name(99.9)
    ('p99', 'p99.9')
    """
    return f"p{int(percent) if percent == int(percent) else percent}"


def _percentiles(wanted: Iterable[float]) -> tuple[float, ...]:
    for percent in wanted:
        if not 0 <= percent <= 100:
            raise ValueError(f"percentiles: {percent:g} must be from 0 to 100, as in 99.9")
    return tuple(dict.fromkeys((*PERCENTILES, *wanted)))


class _Rows:
    """Columns of the requests that are kept, in order of arrival, and what follows from them."""

    def __init__(self, records: Records, warmup: Warmup, cooldown: float | None) -> None:
        rows = records.requests
        order = np.lexsort((rows["request_id"], rows["arrival_s"]))
        self._columns = {name: rows[name][order] for name in rows.kinds}
        arrived_s, n = self.arrival_s, len(self.arrival_s)
        self.cut = self._warmup(warmup)
        self.cut_at_end = min(int((cooldown or 0.0) * n), n - self.cut)
        kept = slice(self.cut, n - self.cut_at_end)
        self._columns = {name: column[kept] for name, column in self._columns.items()}
        # Steps are in time and of all requests: they count until the first request comes that does not.
        self.until_s = float(arrived_s[n - self.cut_at_end]) if self.cut_at_end else math.inf
        self.begin_s = float(self.arrival_s[0]) if len(self.arrival_s) else 0.0
        finished_s = self.finished_s[~np.isnan(self.finished_s)]
        stopped = len(finished_s) < int((self.status != "rejected").sum())
        self.end_s = max(self.begin_s, float(finished_s.max(initial=0.0)))
        if stopped:
            self.end_s = max(self.end_s, records.end_s)
        self.latencies = self._latencies()

    def __getattr__(self, name: str) -> NDArray[Any]:
        try:
            return self.__dict__["_columns"][name]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def columns(self) -> Mapping[str, NDArray[Any]]:
        """Columns of the requests that are kept."""
        return self._columns

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Which requests have all their tokens."""
        done: NDArray[np.bool_] = self.status == "finished"
        return done

    def _warmup(self, rule: Warmup) -> int:
        if rule is None:
            return 0
        n = len(self.arrival_s)
        if rule == "mser5":
            whole = np.flatnonzero(self.finished)
            dropped = mser5((self.finished_s - self.arrival_s)[whole])
            return int(whole[dropped]) if dropped else 0
        if not 0 <= rule < 1:
            raise ValueError(f"warmup = {rule}: must be a share from 0 to below 1, as in 0.1, or 'mser5'")
        return int(rule * n)

    def _latencies(self) -> dict[str, Floats]:
        """Seconds of each request that has such a latency; infinite where it had not come by the end."""
        let_in = self.status != "rejected"
        further = np.where(self.finished, self.generated_tokens, self.output_tokens) - 1
        several = let_in & (further > 0)
        per_token_s = np.where(self.finished, self.finished_s - self.first_token_s, np.nan) / np.maximum(
            further, 1
        )
        return {
            "ttft": _censored((self.first_token_s - self.arrival_s)[let_in]),
            "ttft_from_admission": _censored((self.first_token_s - self.admitted_s)[let_in]),
            "queue": _censored((self.admitted_s - self.arrival_s)[let_in]),
            "tpot": _censored(per_token_s[several]),
            "e2el": _censored((self.finished_s - self.arrival_s)[let_in]),
        }

    def objectives(self, slos: Mapping[str, Objectives]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which requests keep all their objectives, and which have some; only finished ones keep them."""
        n = len(self.arrival_s)
        met, promised = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
        further = np.maximum(self.generated_tokens - 1, 1)
        measured_ms = {
            "ttft_ms": (self.first_token_s - self.arrival_s) * 1e3,
            "tpot_ms": (self.finished_s - self.first_token_s) / further * 1e3,
            "e2el_ms": (self.finished_s - self.arrival_s) * 1e3,
        }
        for name in set(self.request_class.tolist()):
            slo = slos.get(name, slos.get(""))
            limits = {
                field: getattr(slo, field) for field in SLO_FIELDS if getattr(slo, field, None) is not None
            }
            if not limits:
                continue
            mine = self.request_class == name
            kept = mine & self.finished
            for field, limit_ms in limits.items():
                with np.errstate(invalid="ignore"):
                    kept &= measured_ms[field] <= limit_ms
            promised |= mine
            met |= kept
        return met, promised

    def by_class(
        self,
        met: NDArray[np.bool_],
        promised: NDArray[np.bool_],
        span_s: float,
        percentiles: tuple[float, ...],
    ) -> dict[str, dict[str, Any]]:
        """Counts, attainment and the main latencies of each class, if there is more than the nameless one."""
        names = sorted(set(self.request_class.tolist()))
        if names in ([], [""]):
            return {}
        let_in = self.status != "rejected"
        numbers: dict[str, dict[str, Any]] = {}
        for name in names:
            mine = self.request_class == name
            some = bool((mine & promised).any())
            good = int((mine & met).sum())
            numbers[name] = {
                "completed": int((mine & self.finished).sum()),
                "unfinished": int((mine & (self.status == "unfinished")).sum()),
                "aborted": int((mine & (self.status == "aborted")).sum()),
                "rejected": int((mine & ~let_in).sum()),
                "request_goodput": _rate(good, span_s) if some else None,
                "slo_attainment": good / int(mine.sum()) if some else None,
            }
            part = object.__new__(_Rows)
            part.__dict__["_columns"] = {column: values[mine] for column, values in self._columns.items()}
            for latency, values in part._latencies().items():
                numbers[name] |= _distribution(latency, values, percentiles)
        return numbers


def _distribution(name: str, values_s: Floats, percentiles: tuple[float, ...]) -> dict[str, Any]:
    known_s = values_s[np.isfinite(values_s)]
    ascending_ms = np.sort(values_s) * 1e3
    numbers: dict[str, Any] = {
        f"mean_{name}_ms": float(known_s.mean()) * 1e3 if len(known_s) else None,
        f"median_{name}_ms": percentile(ascending_ms, 50),
        f"std_{name}_ms": float(known_s.std()) * 1e3 if len(known_s) else None,
    }
    numbers |= {
        f"{percent_name(percent)}_{name}_ms": percentile(ascending_ms, percent) for percent in percentiles
    }
    numbers[f"max_{name}_ms"] = percentile(ascending_ms, 100)
    numbers[f"censored_{name}"] = len(values_s) - len(known_s)
    return numbers


def percentile(ascending: Floats, percent: float) -> float | None:
    """As numpy's default, linear between neighbours, but infinite between a number and infinity. None of
    nothing.

    >>> percentile(np.array([1.0, 2.0, np.inf]), 50), percentile(np.array([1.0, 2.0, np.inf]), 51)
    (2.0, inf)
    """
    if not len(ascending):
        return None
    position = percent / 100 * (len(ascending) - 1)
    rank = int(position)
    share = position - rank
    if share == 0:
        return float(ascending[rank])
    low, high = float(ascending[rank]), float(ascending[rank + 1])
    return low + share * (high - low) if math.isfinite(high) else math.inf


def _gaps(records: Records, from_s: float, until_s: float, percentiles: tuple[float, ...]) -> dict[str, Any]:
    steps, gaps = records.steps, records.gaps
    in_time, gaps_in_time = steps["start_s"] >= from_s, gaps["at_s"] >= from_s
    if until_s < math.inf:
        in_time, gaps_in_time = (
            in_time & (steps["start_s"] < until_s),
            gaps_in_time & (gaps["at_s"] < until_s),
        )
    durations = Durations.of(
        np.concatenate((steps["first_step_s"][in_time], gaps["first_gap_s"][gaps_in_time])),
        np.concatenate((steps["last_step_s"][in_time], gaps["last_gap_s"][gaps_in_time])),
        np.concatenate((steps["steps"][in_time], gaps["gaps"][gaps_in_time])),
        np.concatenate((steps["gaps"][in_time], gaps["sequences"][gaps_in_time])),
    )
    mean_s, std_s = durations.mean, durations.std
    percentiles_s = durations.percentiles((50, *percentiles, 100))
    in_ms = [None if value_s is None else value_s * 1e3 for value_s in (mean_s, std_s, *percentiles_s)]
    statistics = ["mean", "std", "median", *map(percent_name, percentiles), "max"]
    return {f"{statistic}_itl_ms": value for statistic, value in zip(statistics, in_ms, strict=True)}


def _censored(values_s: Floats) -> Floats:
    return np.where(np.isnan(values_s), np.inf, values_s)


def _rate(count: int, span_s: float) -> float | None:
    return count / span_s if span_s > 0 else None
