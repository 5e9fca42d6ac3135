"""Queues of LLM serving: the decode batch, its seats, its memory, and which schedules are stable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, lgamma, log, log1p
from typing import NamedTuple

from sim.theory.arguments import bounded
from sim.theory.queueing.networks import Closed, load_dependent_network
from sim.theory.queueing.steady import Steady, endless_chain, mean_of, some_arrive, stable_load


@dataclass(frozen=True, slots=True)
class DecodeBatch:
    """The sequences that decode together: a negative binomial number of them, of order `r`."""

    rho: float
    r: float
    W: float
    mean: float

    @property
    def variance(self) -> float:
        return self.mean / (1.0 - self.rho)

    def chance(self, n: int) -> float:
        """The share of time in which `n` sequences decode."""
        if n < 0:
            raise ValueError(f"chance: n = {n}: must be at least 0")
        if not self.rho:
            return float(n == 0)
        weight = lgamma(n + self.r) - lgamma(self.r) - lgamma(n + 1.0)
        return exp(weight + n * log(self.rho) + self.r * log1p(-self.rho))


@bounded
def decode_batch(arrival_rate: float, output_tokens: float, fixed_s: float, each_s: float) -> DecodeBatch:
    """Requests of `output_tokens` in the mean come at random; a step of n sequences takes fixed + each n.

    rho = lambda L b, r = 1 + a/b: n ~ NegBin(r, rho), its mean r rho/(1 - rho), W = L (a + b)/(1 - rho),
    whatever the law of the lengths. Generalised processor sharing (Cohen 1979): each sequence is served at
    1/(a + b n). A limit for long answers (at one token it is 49 % off), short prompts, seats and token budget
    far above n.

    Example: a = 10 ms, b = 0.1 ms, 200 tokens, 40 requests a second.
        >>> batch = decode_batch(40.0, 200.0, 0.010, 0.0001)
        >>> round(batch.rho, 9), round(batch.mean, 1), round(batch.W, 2)
        (0.8, 404.0, 10.1)
    """
    if not each_s:
        raise ValueError("decode_batch: each_s = 0: must be above 0; without it nothing waits: `mg_infinity`")
    rho = stable_load(arrival_rate, 1.0 / (output_tokens * each_s))
    r = 1.0 + fixed_s / each_s
    return DecodeBatch(rho, r, output_tokens * (fixed_s + each_s) / (1.0 - rho), r * rho / (1.0 - rho))


@bounded
def decode_batch_with_seats(
    arrival_rate: float, output_tokens: float, fixed_s: float, each_s: float, seats: int
) -> Steady:
    """As `decode_batch`, with `seats` sequences at most and a queue before them, first come first served.

    A birth-death chain with deaths min(n, m)/(L (a + b min(n, m))), for geometric lengths; stable where
    lambda L (a + b m) < m. rho is that load. Wq is the time before a seat. (A chain cut at m is right only
    where what comes in excess is lost.)

    Example: the steps above, 28 requests a second, 128.5 in the mean; with 150, 256 and 2,000 seats.
        >>> [round(decode_batch_with_seats(28.0, 200.0, 0.010, 0.0001, m).W, 3) for m in (150, 256, 2000)]
        [4.657, 4.591, 4.591]
    """
    some_arrive(arrival_rate)

    def deaths(n: int) -> float:
        batch = min(n, seats)
        return batch / (output_tokens * (fixed_s + each_s * batch))

    if not fixed_s + each_s:
        raise ValueError("decode_batch_with_seats: fixed_s = 0: must be above 0 where each_s is 0")
    rho = stable_load(arrival_rate, deaths(seats))
    chances = endless_chain(lambda n: arrival_rate, deaths, seats)
    there = mean_of(chances)
    waiting = sum((n - seats) * chance for n, chance in enumerate(chances) if n > seats)
    return Steady(
        rho,
        there / arrival_rate,
        waiting / arrival_rate,
        there,
        waiting,
        delayed=sum(chances[seats:]),
    )


@bounded
def decode_loop(
    users: int, output_tokens: float, fixed_s: float, each_s: float, think_s: float = 0.0, seats: int = 10**7
) -> Closed:
    """`users` who ask, get their answer token by token, and think: the decode batch as a station of a loop.

    `load_dependent_network` with one station, whose speed with n there is that of min(n, seats) in a batch.

    Example: 64 users without thinking: the batch is 64, and the answer takes 200 (a + 64 b).
        >>> loop = decode_loop(64, 200.0, 0.010, 0.0001)
        >>> round(loop.response_s, 4), round(200 * (0.010 + 64 * 0.0001), 4)
        (3.28, 3.28)
    """
    if not fixed_s + each_s:
        raise ValueError("decode_loop: fixed_s = 0: must be above 0 where each_s is 0")
    one_s = fixed_s + each_s

    def speed(n: int) -> float:
        batch = min(n, seats)
        return batch * one_s / (fixed_s + each_s * batch)

    return load_dependent_network(users, [output_tokens * one_s], [speed], think_s)


@bounded
def mixed_batches_limit(
    prompt_tokens: float, output_tokens: float, token_budget: float, full_step_s: float
) -> float:
    """Requests per second below which every work-conserving rule of mixed batches is stable.

    lambda (m_p + m_d) < B/t_B, mean prompt and output tokens, token budget and the time of a full batch; KV
    memory and seats not binding. Such rules are throughput-optimal; prompts before decodes are not. (Li, Dai
    and Peng, arXiv 2504.07347.)

    Example: 2,048 tokens in 40 ms, requests of 800 + 224 tokens.
        >>> round(mixed_batches_limit(800.0, 224.0, 2048.0, 0.040), 9)
        50.0
    """
    tokens = prompt_tokens + output_tokens
    if not tokens:
        raise ValueError("mixed_batches_limit: prompt_tokens + output_tokens = 0: must be above 0")
    return token_budget / full_step_s / tokens


@bounded
def prefill_first_limit(output_tokens: float, seats: int, step_s: float) -> float:
    """Requests per second below which prompts before decodes is stable, where every step takes `step_s`.

    All seats taken, a step of decodes frees m/m_d of them, and the next step has prompts and no decodes: only
    where none was free, (1 - 1/m_d)^m of the steps, the decodes go on. So lambda < m/(m_d t (2 - (1 -
    1/m_d)^m)), half of what the steps could do, which `mixed_batches_limit` gets. Geometric lengths, and
    prompts that fit in one step together. (Own algebra on the model of Li, Dai and Peng.)

    Example: 256 seats and tokens a step of 10 ms, prompts of 10, answers of 50.
        >>> round(prefill_first_limit(50.0, 256, 0.010)), round(mixed_batches_limit(10.0, 50.0, 256, 0.010))
        (257, 427)
    """
    if output_tokens < 1.0:
        raise ValueError(f"prefill_first_limit: output_tokens = {output_tokens}: must be at least 1")
    none_free = (1.0 - 1.0 / output_tokens) ** seats
    return seats / (output_tokens * step_s * (2.0 - none_free))


@bounded
def token_steps(prompt_tokens: float, output_tokens: float) -> float:
    """KV tokens times steps that one request holds: o (s + o/2), s prompt and o output tokens.

    Example:
        >>> token_steps(1000.0, 200.0)
        220000.0
    """
    return output_tokens * (prompt_tokens + output_tokens / 2.0)


@bounded
def kv_memory_limit(
    kv_tokens: float, step_s: float, prompts: Sequence[float], outputs: Sequence[float]
) -> float:
    """Requests per second that KV memory of `kv_tokens` lets through: mu = M/(tau E[g]).

    g = o (s + o/2) of each request (`token_steps`), tau the mean time of a step with full memory. (Nie, Si
    and Zhou, arXiv 2605.04595, measured within 10 %.) Stops where preemption wastes work or seats bind.

    Example: 400,000 tokens, steps of 25 ms, 1,000 + 200 tokens.
        >>> round(kv_memory_limit(400_000.0, 0.025, [1000.0], [200.0]), 2)
        72.73
    """
    if len(prompts) != len(outputs):
        raise ValueError(
            f"kv_memory_limit: {len(prompts)} prompts and {len(outputs)} outputs: must be as many"
        )
    held = sum(token_steps(prompt, output) for prompt, output in zip(prompts, outputs, strict=True))
    return kv_tokens / (step_s * held / len(prompts))


class Fluid(NamedTuple):
    """The point at which a fluid of requests stands still: the time of a step, and the KV tokens held."""

    step_s: float
    kv_tokens: float


@bounded
def fluid_point(
    arrival_rates: Sequence[float],
    prompts: Sequence[float],
    outputs: Sequence[float],
    fixed_s: float,
    kv_token_s: float,
    kv_tokens: float,
) -> Fluid:
    """Classes of requests, steps of fixed + kv_token_s M for M tokens of KV cache: where both stand still.

    Lambda_j = lambda_j (o_j + 1)(s_j + o_j/2), dT = d0/(1 - d1 sum Lambda), M* = dT sum Lambda, which must
    fit in `kv_tokens`. (Algebra on WAIT, arXiv 2504.11320.)

    Example: 2 requests a second of 1,000 + 200 tokens, 10 ms and 20 ns a token.
        >>> point = fluid_point([2.0], [1000.0], [200.0], 0.010, 2e-8, 400_000.0)
        >>> round(point.step_s * 1e3, 3), round(point.kv_tokens)
        (10.089, 4461)
    """
    if not len(arrival_rates) == len(prompts) == len(outputs):
        raise ValueError(
            f"fluid_point: {len(arrival_rates)} arrival_rates, {len(prompts)} prompts, {len(outputs)} "
            "outputs: must be as many"
        )
    held = sum(
        rate * (output + 1.0) * (prompt + output / 2.0)
        for rate, prompt, output in zip(arrival_rates, prompts, outputs, strict=True)
    )
    stable_load(kv_token_s * held, 1.0)
    step_s = fixed_s / (1.0 - kv_token_s * held)
    if step_s * held > kv_tokens:
        raise ValueError(
            f"fluid_point: {step_s * held:.6g} KV tokens would be held: "
            f"must be at most kv_tokens = {kv_tokens:g}"
        )
    return Fluid(step_s, step_s * held)
