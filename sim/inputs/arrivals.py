"""When requests arrive: open processes, a closed loop of users, a recorded trace, sessions of several turns.

Rates are requests per second of simulated time. An open process does not depend on the service; closed loops
and sessions wait for their answers, so that what they send depends on how they are served.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from pydantic import BaseModel, Field, model_validator

from sim.inputs.lengths import (
    FixedLength,
    FixedWait,
    Lengths,
    LognormalLength,
    Positive,
    TraceFile,
    Waits,
    longest_of,
    one_of_name_and_path,
)
from sim.inputs.quantities import Count, NotBoolean, PerSecond, Seconds

PositiveRate = Annotated[PerSecond, Gt(0)]
PositiveSeconds = Annotated[Seconds, Gt(0)]
Users = Annotated[Count, Ge(1), Le(10_000_000)]


class ClosedLoop(BaseModel, frozen=True, extra="forbid"):
    """`users` users, each of which sends, waits for the last token, thinks, and sends again (vLLM's
    max_concurrency).

    The first requests come at time zero, or spread evenly over `ramp_s`.
    """

    kind: Literal["closed_loop"] = "closed_loop"
    users: Users
    think_time_s: Waits = FixedWait(value_s=0.0)
    ramp_s: Seconds = 0.0


class Poisson(BaseModel, frozen=True, extra="forbid"):
    """Independent exponential gaps: many users that are independent of each other."""

    kind: Literal["poisson"] = "poisson"
    rate_per_s: PositiveRate


class Constant(BaseModel, frozen=True, extra="forbid"):
    """Equal gaps, the first request at time zero."""

    kind: Literal["constant"] = "constant"
    rate_per_s: PositiveRate


class Gamma(BaseModel, frozen=True, extra="forbid"):
    """Gamma gaps. `burstiness` is the shape, as in vLLM's benchmark: 1 is Poisson, below 1 bursty, above 1
    regular.

    `cv`, the coefficient of variation of the gaps, says the same: burstiness = 1/cv**2. Write one of the two.
    """

    kind: Literal["gamma"] = "gamma"
    rate_per_s: PositiveRate
    burstiness: Annotated[float, NotBoolean, Ge(1e-4), Le(1e8)] | None = None
    cv: Annotated[float, NotBoolean, Ge(1e-4), Le(100)] | None = None

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        if (self.burstiness is None) == (self.cv is None):
            raise ValueError("write either `burstiness` (1 is Poisson) or `cv` (1 is Poisson), and not both")
        return self

    @property
    def shape(self) -> float:
        """The shape parameter of the gaps."""
        return self.burstiness if self.burstiness is not None else 1.0 / (self.cv or 1.0) ** 2


class Weibull(BaseModel, frozen=True, extra="forbid"):
    """Weibull gaps of this `shape`: 1 is Poisson, below 1 bursty with a longer tail than gamma gaps have."""

    kind: Literal["weibull"] = "weibull"
    rate_per_s: PositiveRate
    shape: Annotated[float, NotBoolean, Ge(0.05), Le(1e3)]


MAX_CHANGES_PER_ARRIVAL = 100.0
"""With more changes of the rate between two arrivals, arrivals are Poisson at the mean rate to a percent, and
drawing the changes would take the time of the run.
"""


def _refuse_idle_changes(pieces: list[tuple[float, float]]) -> None:
    """ValueError where the rate of (seconds, rate) pieces changes much more often than something comes."""
    arrivals = sum(seconds * rate for seconds, rate in pieces)
    if arrivals * MAX_CHANGES_PER_ARRIVAL < len(pieces):
        mean_rate = arrivals / sum(seconds for seconds, _ in pieces)
        raise ValueError(
            f"the rate changes {len(pieces) / arrivals:.3g} times between two arrivals, and at most "
            f"{MAX_CHANGES_PER_ARRIVAL:g} are drawn; write the mean rate: "
            f"{{kind: poisson, rate_per_s: {mean_rate:.6g}}}"
            if arrivals > 0
            else "the rates are so low that nothing ever comes; raise a rate or a duration"
        )


class OnOff(BaseModel, frozen=True, extra="forbid"):
    """Poisson at `on_rate_per_s` and `off_rate_per_s` by turns, for exponential times (a 2-state MMPP)."""

    kind: Literal["on_off"] = "on_off"
    on_rate_per_s: PositiveRate
    off_rate_per_s: PerSecond = 0.0
    mean_on_s: PositiveSeconds
    mean_off_s: PositiveSeconds

    @model_validator(mode="after")
    def _arrivals_between_changes(self) -> Self:
        _refuse_idle_changes([(state.mean_stay_s, state.rate_per_s) for state in self.states])
        return self

    @property
    def states(self) -> tuple[RateState, ...]:
        """The two states, on first."""
        return (
            RateState(rate_per_s=self.on_rate_per_s, mean_stay_s=self.mean_on_s),
            RateState(rate_per_s=self.off_rate_per_s, mean_stay_s=self.mean_off_s),
        )


class RateState(BaseModel, frozen=True, extra="forbid"):
    """One state of a Markov-modulated process."""

    rate_per_s: PerSecond
    mean_stay_s: PositiveSeconds


class MarkovModulated(BaseModel, frozen=True, extra="forbid"):
    """Poisson whose rate is that of a hidden state; after an exponential stay any other state is equally
    likely.

    Starts in its stationary distribution: state i with probability proportional to mean_stay_s. The mean
    rate is the mean of the states' rates, weighted by mean_stay_s.
    """

    kind: Literal["mmpp"] = "mmpp"
    states: Annotated[tuple[RateState, ...], MinLen(2), MaxLen(1000)]

    @model_validator(mode="after")
    def _some_rate(self) -> Self:
        if all(state.rate_per_s == 0 for state in self.states):
            raise ValueError("every state has rate zero; at least one needs a rate above zero")
        _refuse_idle_changes([(state.mean_stay_s, state.rate_per_s) for state in self.states])
        return self


class RatePiece(BaseModel, frozen=True, extra="forbid"):
    """A stretch of time with one rate."""

    duration_s: PositiveSeconds
    rate_per_s: PerSecond


class TimeVarying(BaseModel, frozen=True, extra="forbid"):
    """Poisson whose rate changes by the clock; the pieces `repeat`, or the rate of the last one stays."""

    kind: Literal["time_varying"] = "time_varying"
    pieces: Annotated[tuple[RatePiece, ...], MinLen(1), MaxLen(100_000)]
    repeat: bool = True

    @model_validator(mode="after")
    def _some_rate(self) -> Self:
        if all(piece.rate_per_s == 0 for piece in self.pieces):
            raise ValueError("every piece has rate zero; at least one needs a rate above zero")
        if self.repeat:
            _refuse_idle_changes([(piece.duration_s, piece.rate_per_s) for piece in self.pieces])
        return self


class Burst(BaseModel, frozen=True, extra="forbid"):
    """All requests at once (vLLM's request rate `inf`)."""

    kind: Literal["burst"] = "burst"
    at_s: Seconds = 0.0


class Trace(TraceFile, frozen=True, extra="forbid"):
    """Arrivals of a recorded trace, from its first request on; its lengths too, unless the workload names
    others.

    `speedup` 2 plays it twice as fast; `limit` keeps the first rows; `duration_s` keeps what arrives within
    that much *recorded* time; `start_s` drops that much recorded time at the front. `cache_bust: session`
    puts a prefix of its own before every session, so that no text is shared between sessions, `request`
    before every request.
    """

    kind: Literal["trace"] = "trace"
    speedup: Annotated[Positive, Le(1e9)] = 1.0
    limit: Annotated[Count, Ge(1)] | None = None
    duration_s: PositiveSeconds | None = None
    start_s: Seconds = 0.0
    cache_bust: Literal["session", "request"] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        one_of_name_and_path(self.name, self.path)
        return self


OpenProcess = Annotated[
    Poisson | Constant | Gamma | Weibull | OnOff | MarkovModulated | TimeVarying | Burst,
    Field(discriminator="kind"),
]
EndlessProcess = Annotated[
    Poisson | Constant | Gamma | Weibull | OnOff | MarkovModulated | TimeVarying, Field(discriminator="kind")
]


class Clients(BaseModel, frozen=True, extra="forbid"):
    """Clients that send each by a process of their own, as ServeGen describes services: the requests of the
    client `name` are of the class `name`, which has its lengths, prefix and objectives.

    Xiang et al., ServeGen (arXiv 2505.09999): few clients send most requests, each with its own burstiness
    (gamma or Weibull gaps) and its own lengths (Pareto and lognormal prompts, exponential answers).
    """

    kind: Literal["clients"] = "clients"
    clients: Annotated[dict[str, EndlessProcess], MinLen(1), MaxLen(10_000)]


class Sessions(BaseModel, frozen=True, extra="forbid"):
    """Conversations and agents: a session starts by `starts`, then takes turns, each after the answer
    before it.

    The prompt of a turn is everything said so far (prompts and answers) and then the workload's
    `prompt_tokens` of new text. `tool_delay_s` passes between an answer and the next turn. A session ends
    after `turns` turns, or before its text would exceed `max_context_tokens`. `block_tokens` is the grain
    in which shared text has block hashes.
    """

    kind: Literal["sessions"] = "sessions"
    starts: OpenProcess
    turns: Lengths = FixedLength(tokens=4)  # at most MAX_TURNS, whatever is drawn
    tool_delay_s: Waits = FixedWait(value_s=0.0)
    max_context_tokens: Annotated[Count, Ge(2)] | None = None
    block_tokens: Annotated[Count, Ge(1), Le(65536)] = 16

    @model_validator(mode="after")
    def _turns_end(self) -> Self:
        turns = self.turns
        if turns.kind == "trace":
            raise ValueError("turns: a trace has lengths, no turns; write a number of them, as in 4, or "
                             "{kind: geometric, mean: 4}")  # fmt: skip
        if turns.kind in ("lognormal", "geometric"):
            fewest = turns.low if isinstance(turns, LognormalLength) else 1
            largest = max(turns.mean, fewest)  # the tail beyond is cut off
        else:
            largest = turns.high if turns.kind == "pareto" else longest_of(turns) or 0
        if largest > MAX_TURNS:
            raise ValueError(f"turns: {largest:g} are more than {MAX_TURNS}, the most that a session takes")
        return self


MAX_TURNS = 10_000  # every turn has the whole conversation before it, and is drawn when the session starts

Arrivals = Annotated[
    ClosedLoop
    | Poisson
    | Constant
    | Gamma
    | Weibull
    | OnOff
    | MarkovModulated
    | TimeVarying
    | Burst
    | Clients
    | Trace
    | Sessions,
    Field(discriminator="kind"),
]
