"""Rows of the ledger from theorems: the runtime as a textbook queue, and the theorems of LLM serving.

"Published" is what the formula gives. Means have a 95 % interval from the means of consecutive batches, after
a warm-up; a row is outside where chance would put it there once in 500 rows, so that a table of some twenty
is hardly ever broken by chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import exp, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.results.compared import Row
from sim.results.laws import saturated
from sim.results.records import Records
from sim.scenario.scenario import Scenario
from sim.simulate import simulate
from sim.theory import queueing

Floats = NDArray[np.float64]

THEORY = "queueing theory (sim.theory.queueing)"
TOKENS = 100_000  # mean of a geometric length whose law is exponential to five digits
LOADS = {0.5: 50_000, 0.8: 100_000, 0.95: 300_000}
"""Customers by load: a queue forgets its past after some 1/(1 - rho)^2 services."""
WARM_UP = 0.2  # of the requests, left out (assumed: some ten times of forgetting at each of these loads)
BATCHES = 20
STUDENT_95, STUDENT_998 = 2.093, 3.579
"""Two-sided quantiles of Student's law with 19 degrees of freedom (tables)."""
LOADS_OF_BATCHES = {0.5: 4_000, 0.8: 8_000, 0.95: 20_000}
MEMORY_ERROR = 0.1  # of the formula for KV memory, as its authors measured it (arXiv 2605.04595)
FLUID_ERROR = 0.05  # of a step: a fluid has no chance, and prompts are in it as tokens like others (assumed)

FIXED_S, EACH_S, ANSWER = 0.002, 0.001, 200.0
"""A decode step of 2 ms + 1 ms a sequence, answers of 200 tokens: r = 3, a batch that forgets quickly."""


class Interval(NamedTuple):
    """A mean, and half the width of its 95 % interval."""

    mean: float
    half: float

    def excludes(self, value: float) -> bool:
        """Whether chance alone would hardly bring the mean so far from a value."""
        return abs(self.mean - value) > self.half * STUDENT_998 / STUDENT_95


def interval(values: Floats) -> Interval:
    """Of values in the order of their arrival, after the warm-up."""
    kept = values[int(WARM_UP * len(values)) :]
    means = np.array([batch.mean() for batch in np.array_split(kept, BATCHES)])
    return Interval(float(kept.mean()), STUDENT_95 * float(means.std(ddof=1)) / sqrt(BATCHES))


def stays(records: Records) -> Floats:
    """Seconds from arrival to the last token, in the order of arrival."""
    rows = records.requests
    return np.asarray(rows["finished_s"] - rows["arrival_s"])[np.argsort(rows["arrival_s"], kind="stable")]


def law_row(case: str, quantity: str, theory: float, measured: Interval, unit: str = "s") -> Row:
    """A row with its interval and its verdict."""
    low, high = measured.mean - measured.half, measured.mean + measured.half
    return Row(
        case,
        quantity,
        unit,
        theory,
        measured.mean,
        "predicted",
        THEORY,
        interval=(low, high),
        is_outside=measured.excludes(theory),
    )


def law_rows(share: float = 1.0) -> Iterator[Row]:
    """Every law at its loads; `share` of the requests for a quick look."""
    yield from queue_rows(share)
    yield from decode_rows(share)
    yield from loop_rows()
    yield from batching_rows(share)
    yield from stability_rows()
    yield memory_limit_row()
    yield from fluid_rows()


def queue_rows(share: float = 1.0) -> Iterator[Row]:
    """Mean waits of textbook queues."""
    exponential = {"kind": "geometric", "mean": TOKENS, "high": 64 * TOKENS}
    uniform = {"kind": "uniform", "low": 1, "high": 2 * TOKENS - 1}
    cut = {"kind": "geometric", "mean": TOKENS, "high": int(CUT * TOKENS)}
    per_token = {"token_s": 1.0 / TOKENS}
    for rho, requests in LOADS.items():
        queues: list[tuple[str, int, dict[str, float], Any, float]] = [
            ("M/M/1", 1, per_token, exponential, queueing.mm1(rho, 1.0).Wq),
            ("M/D/1", 1, {"step_s": 1.0}, 1, queueing.md1(rho, 1.0).Wq),
            ("M/G/1, uniform service", 1, per_token, uniform, queueing.mg1(rho, 1.0, 1.0 / 3.0).Wq),
            ("M/G/1, lengths cut at 1.5 means", 1, per_token, cut, _cut_exponential_wait_s(rho)),
            ("M/M/4", 4, per_token, exponential, queueing.mmc(4 * rho, 1.0, 4).Wq),
        ]
        for name, servers, service, prompt, wait_s in queues:
            scenario = one_at_a_time(rho * servers, servers, service, prompt, int(share * requests))
            rows = simulate(scenario, seed=1).records.requests
            waited = np.asarray(rows["admitted_s"] - rows["arrival_s"])
            yield law_row(f"{name} at load {rho:g}", "mean wait", wait_s, interval(waited))


CUT = 1.5


def _cut_exponential_wait_s(rate_per_s: float) -> float:
    """Pollaczek and Khinchine, where answers end at a longest length (Yang, Jiao and Xu, arXiv 2407.05347):
    an exponential service of a second that is cut has the means 1 - e^-c and 2 (1 - (1 + c) e^-c).
    """
    mean_s, square = 1.0 - exp(-CUT), 2.0 * (1.0 - (1.0 + CUT) * exp(-CUT))
    return queueing.mg1(rate_per_s, 1.0 / mean_s, square / mean_s**2 - 1.0).Wq


def batching_rows(share: float = 1.0) -> Iterator[Row]:
    """Whole batches, as large as what waits: the bound of Inoue (Performance Evaluation 147, 2021), which is
    nearly attained.
    """
    each_s, fixed_s = 0.05, 0.5
    for load in (0.5, 0.8, 0.95):
        rate = load / each_s
        scenario = decoding(
            rate,
            1,
            int(share * 20_000),
            scheduler="continuous",
            service={"step_s": fixed_s, "sequence_s": each_s},
        )
        measured = interval(stays(simulate(scenario, seed=1).records))
        bound_s = queueing.dynamic_batching(rate, each_s, fixed_s).W_at_most
        case = f"whole batches at load {load:g}, steps of {fixed_s:g} s + {each_s:g} s a request"
        row = law_row(case, "mean time, at most", bound_s, measured)
        # A bound of the mean: a run below it breaks nothing.
        yield replace(row, is_outside=row.is_outside and measured.mean > bound_s)


def decode_rows(share: float = 1.0) -> Iterator[Row]:
    """The decode batch, whatever the law of the lengths, and with seats."""
    geometric = {"kind": "geometric", "mean": ANSWER, "high": 40 * ANSWER}
    steps = f"steps of {1e3 * FIXED_S:g} ms + {1e3 * EACH_S:g} ms a sequence, {ANSWER:g} tokens"
    for rho, requests in LOADS_OF_BATCHES.items():
        rate = rho / (ANSWER * EACH_S)
        for name, law in (("geometric", geometric), ("constant", int(ANSWER))):
            records = simulate(decoding(rate, law, int(share * requests)), seed=1).records
            theory = queueing.decode_batch(rate, ANSWER, FIXED_S, EACH_S)
            case = f"decode batch, {name} answers, load {rho:g} ({steps})"
            yield law_row(case, "mean time", theory.W, interval(stays(records)))
    seats = 8
    for rho, requests in LOADS_OF_BATCHES.items():
        rate = rho * seats / (ANSWER * (FIXED_S + EACH_S * seats))
        records = simulate(decoding(rate, geometric, int(share * requests), seats=seats), seed=1).records
        exact = queueing.decode_batch_with_seats(rate, ANSWER, FIXED_S, EACH_S, seats)
        case = f"decode batch, {seats} seats, load {rho:g}"
        yield law_row(case, "mean time", exact.W, interval(stays(records)))


def loop_rows() -> Iterator[Row]:
    """Users who wait for their answer: the decode batch in a closed loop."""
    for users, think_s in ((8, 0.0), (16, 2.0)):
        arrivals: dict[str, Any] = {"kind": "closed_loop", "users": users, "think_time_s": think_s}
        geometric = {"kind": "geometric", "mean": ANSWER, "high": 40 * ANSWER}
        records = simulate(decoding(arrivals, geometric, 2_000), seed=1).records
        loop = queueing.decode_loop(users, ANSWER, FIXED_S, EACH_S, think_s)
        case = f"decode batch, {users} users who think {think_s:g} s"
        yield law_row(case, "mean time", loop.response_s, interval(stays(records)))


BUDGET, STEP_S, PROMPT, SHORT_ANSWER, SECONDS = 256, 0.010, 10.0, 50.0, 12.0


def stability_rows() -> Iterator[Row]:
    """Mixed batches use every token of a step, prompts before decodes do not: which of them is stable."""
    most = queueing.mixed_batches_limit(PROMPT, SHORT_ANSWER, BUDGET, STEP_S)
    first = queueing.prefill_first_limit(SHORT_ANSWER, BUDGET, STEP_S)
    for rule, limit in (("vllm", most), ("continuous", first)):
        for load in (0.8, 1.25):
            scenario = decoding(
                load * limit,
                {"kind": "geometric", "mean": SHORT_ANSWER, "high": 40 * SHORT_ANSWER},
                int(SECONDS * load * limit),
                prompt=int(PROMPT),
                scheduler=rule,
                seats=BUDGET,
                token_budget=BUDGET,
                service={"step_s": STEP_S},
            )
            grows = bool(saturated(simulate(scenario, seed=1).records))
            name = "mixed batches" if rule == "vllm" else "prompts before decodes"
            case = f"{name}, {load:g} of {limit:.3g} requests/s, {BUDGET} tokens in {1e3 * STEP_S:g} ms"
            yield Row(
                case,
                "queue grows",
                "",
                float(load > 1.0),
                float(grows),
                "predicted",
                THEORY,
                is_outside=grows != (load > 1.0),
            )


def memory_limit_row() -> Row:
    """The rate that KV memory lets through, of requests that all wait from the beginning."""
    blocks, prompt, requests = 1000, 200, 1500
    lengths = {
        "prompt_tokens": prompt,
        "output_tokens": {"kind": "uniform", "low": 1, "high": 400},
        "requests": requests,
    }
    engine = {
        "num_gpu_blocks_override": blocks,
        "max_num_seqs": 1000,
        "enable_prefix_caching": False,
        "max_model_len": 1000,
    }
    records = simulate(
        Scenario.model_validate({**_described({"kind": "burst"}, lengths), "engine": engine}), seed=1
    ).records
    rows, steps = records.requests, records.steps
    # Memory fills and empties outside of the middle.
    finished_s = np.sort(rows["finished_s"])[requests // 5 : -requests // 5]
    begin_s, end_s = float(finished_s[0]), float(finished_s[-1])
    inside = (steps["start_s"] > begin_s) & (steps["start_s"] < end_s)
    step_s = (end_s - begin_s) / float(np.sum(steps["steps"][inside]))
    outputs = np.asarray(rows["output_tokens"], dtype=np.float64).tolist()
    theory = queueing.kv_memory_limit(16.0 * blocks, step_s, [float(prompt)] * len(outputs), outputs)
    rate = (len(finished_s) - 1) / (end_s - begin_s)
    return Row(
        f"KV memory of {16 * blocks} tokens, llama-3-8b on an A100, {prompt} + 200 tokens",
        "requests/s",
        "1/s",
        theory,
        rate,
        "predicted",
        "arXiv 2605.04595, within 10 %",
        is_outside=abs(rate / theory - 1.0) > MEMORY_ERROR,
    )


def fluid_rows() -> Iterator[Row]:
    """Steps whose time grows with the KV tokens held, and these with the time of steps: where both stand
    still (WAIT, arXiv 2504.11320). The line of the steps is fitted to those of the run.
    """
    prompt, answer, requests = 100, 200, 2400
    for rate in (10.0, 20.0, 30.0):
        lengths = {
            "prompt_tokens": prompt,
            "output_tokens": {"kind": "uniform", "low": 1, "high": 2 * answer - 1},
            "requests": requests,
        }
        engine = {"max_num_seqs": 2000, "enable_prefix_caching": False, "max_model_len": 1000}
        records = simulate(
            Scenario.model_validate({**_described(rate, lengths), "engine": engine}), seed=1
        ).records
        step_s, fixed_s, token_s = _line_of_steps(records)
        outputs = [float(tokens) for tokens in range(1, 2 * answer)]
        rates, prompts = [rate / len(outputs)] * len(outputs), [float(prompt)] * len(outputs)
        fluid = queueing.fluid_point(rates, prompts, outputs, fixed_s, token_s, 1e9)
        yield Row(
            f"fluid of llama-3-8b on an A100, {rate:g} requests/s of {prompt} + {answer} tokens",
            "mean step",
            "s",
            fluid.step_s,
            step_s,
            "predicted",
            "arXiv 2504.11320, within 5 %",
            is_outside=abs(step_s / fluid.step_s - 1.0) > FLUID_ERROR,
        )


def _line_of_steps(records: Records) -> tuple[float, float, float]:
    """The mean step of a run, without its beginning and its end; and the least-squares line of steps by KV
    tokens, at none and for each.
    """
    steps, last_s = records.steps, float(records.requests["arrival_s"].max())
    of = (steps["start_s"] > WARM_UP * last_s) & (steps["end_s"] < last_s)
    number = steps["steps"][of].astype(np.float64)
    seconds = 0.5 * (steps["first_step_s"][of] + steps["last_step_s"][of])
    held = steps["kv_tokens"][of] + 0.5 * (number - 1.0) * steps["decode_tokens"][of]
    mean_s, mean_held = np.average(seconds, weights=number), np.average(held, weights=number)
    spread = np.average((held - mean_held) ** 2, weights=number)
    token_s = np.average((held - mean_held) * (seconds - mean_s), weights=number) / spread
    return float(mean_s), float(mean_s - token_s * mean_held), float(token_s)


def _described(arrivals: float | Mapping[str, Any], lengths: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(arrivals, Mapping):
        arrivals = {"kind": "poisson", "rate_per_s": arrivals}
    return {"topology": "a100-x4", "model": "llama-3-8b", "workload": {"arrivals": arrivals, **lengths}}


def one_at_a_time(
    rate_per_s: float, servers: int, service: dict[str, float], prompt: Any, requests: int
) -> Scenario:
    """Servers of a textbook: the work of a request is its prompt."""
    engine = {"scheduler": "one_at_a_time", "service_time": service, "enable_prefix_caching": False}
    lengths = {"prompt_tokens": prompt, "output_tokens": 1, "requests": requests}
    return Scenario.model_validate(
        {
            **_described(rate_per_s, lengths),
            "replicas": servers,
            "router": "central_queue",
            "engine": engine,
        }
    )


def decoding(
    arrivals: float | Mapping[str, Any],
    answer: Any,
    requests: int,
    *,
    prompt: int = 1,
    scheduler: str = "vllm",
    seats: int = 100_000,
    token_budget: int = 100_000,
    service: Mapping[str, float] | None = None,
) -> Scenario:
    """An engine with given step times, that looks at its queue after every step."""
    engine = {
        "scheduler": scheduler,
        "service_time": dict(service or {"step_s": FIXED_S, "sequence_s": EACH_S}),
        "enable_prefix_caching": False,
        "async_scheduling": False,
        "max_num_seqs": seats,
        "max_num_batched_tokens": token_budget,
        "max_model_len": 10_000,
    }
    lengths = {"prompt_tokens": prompt, "output_tokens": answer, "requests": requests}
    return Scenario.model_validate({**_described(arrivals, lengths), "engine": engine})
