"""How many tokens a prompt or an answer has, and how long a user or a tool waits: distributions to draw from.

A plain number is a fixed length (`prompt_tokens: 57`) or a fixed wait (`think_time_s: 2 s`); anything else
names its distribution with `kind`. The request sampler draws; here are only the distributions and what makes
them possible.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import BaseModel, BeforeValidator, Field, model_validator

from sim.inputs.quantities import Count, Fraction, NotBoolean, Seconds

MAX_TOKENS = 100_000_000
Tokens = Annotated[Count, Ge(1), Le(MAX_TOKENS)]
Positive = Annotated[float, NotBoolean, Gt(0), Le(1e12)]
Spread = Annotated[float, NotBoolean, Ge(0), Le(100)]


class FixedLength(BaseModel, frozen=True, extra="forbid"):
    """Always the same number of tokens."""

    kind: Literal["fixed"] = "fixed"
    tokens: Tokens


class UniformLength(BaseModel, frozen=True, extra="forbid"):
    """Every whole number from `low` to `high`, both included, equally likely."""

    kind: Literal["uniform"] = "uniform"
    low: Tokens
    high: Tokens

    @model_validator(mode="after")
    def _low_to_high(self) -> Self:
        refuse_disorder(self.low, self.high)
        return self


class LognormalLength(BaseModel, frozen=True, extra="forbid"):
    """A lognormal with this mean and coefficient of variation, rounded to whole tokens and held in [low,
    high].

    `mean` and `cv` are those of the continuous distribution: cutting it off at `high` lowers both.
    """

    kind: Literal["lognormal"] = "lognormal"
    mean: Annotated[float, NotBoolean, Ge(1), Le(MAX_TOKENS)]
    cv: Spread
    low: Tokens = 1
    high: Tokens = MAX_TOKENS

    @model_validator(mode="after")
    def _low_to_high(self) -> Self:
        refuse_disorder(self.low, self.high)
        return self


class ZipfLength(BaseModel, frozen=True, extra="forbid"):
    """P(length = low + k - 1) proportional to k**-exponent, from `low` to `high`: short ones are many."""

    kind: Literal["zipf"] = "zipf"
    exponent: Annotated[float, NotBoolean, Ge(0), Le(20)]
    low: Tokens = 1
    high: Annotated[Count, Ge(1), Le(10_000_000)]  # kept as a table of this many entries

    @model_validator(mode="after")
    def _low_to_high(self) -> Self:
        refuse_disorder(self.low, self.high)
        return self


class ParetoLength(BaseModel, frozen=True, extra="forbid"):
    """P(length > x) = (low / x) ** shape from `low` on, rounded to whole tokens and cut off at `high`.

    Below shape 1 the mean has no bound but `high`, below 2 the variance has none.
    """

    kind: Literal["pareto"] = "pareto"
    shape: Annotated[float, NotBoolean, Gt(0), Le(100)]
    low: Tokens
    high: Tokens = MAX_TOKENS

    @model_validator(mode="after")
    def _low_to_high(self) -> Self:
        refuse_disorder(self.low, self.high)
        return self


class GeometricLength(BaseModel, frozen=True, extra="forbid"):
    """Geometric on 1, 2, ...: after each token it ends with probability 1/mean (a memoryless length)."""

    kind: Literal["geometric"] = "geometric"
    mean: Annotated[float, NotBoolean, Ge(1), Le(MAX_TOKENS)]
    high: Tokens = MAX_TOKENS


class EmpiricalLength(BaseModel, frozen=True, extra="forbid"):
    """One of `values`, drawn with replacement, equally likely or by `weights`."""

    kind: Literal["empirical"] = "empirical"
    values: Annotated[tuple[Tokens, ...], MinLen(1)]
    weights: tuple[Annotated[float, NotBoolean, Ge(0), Le(1e12)], ...] | None = None

    @model_validator(mode="after")
    def _one_weight_each(self) -> Self:
        if self.weights is not None and len(self.weights) != len(self.values):
            raise ValueError(f"{len(self.weights)} weights for {len(self.values)} values; write one for each")
        if self.weights is not None and sum(self.weights) <= 0:
            raise ValueError("all weights are zero; at least one value needs a weight above zero")
        return self


TimeUnit = Literal["s", "ms", "us", "ns", "utc"]
TraceColumn = Literal[
    "arrived_at", "prompt_tokens", "output_tokens", "session", "delay", "request_class", "model"
]


class TraceFile(BaseModel, frozen=True, extra="forbid"):
    """What a workload says of a recorded trace that its file does not say.

    `columns` names the columns of a table of one's own, `time_unit` the unit of its times, `block_tokens` how
    many tokens one of its `hash_ids` stands for. Text is counted by a `tokenizer` (a local tokenizer.json),
    or estimated by `characters_per_token`.
    """

    name: str | None = None
    path: str | None = None
    columns: dict[TraceColumn, str] | None = None
    time_unit: TimeUnit | None = None
    block_tokens: Annotated[Count, Ge(1), Le(65536)] | None = None
    tokenizer: str | None = None
    characters_per_token: Annotated[float, NotBoolean, Gt(0), Le(1000)] | None = None

    @model_validator(mode="after")
    def _one_way_to_count(self) -> Self:
        if self.tokenizer is not None and self.characters_per_token is not None:
            raise ValueError("write either tokenizer or characters_per_token, and not both")
        return self


class TraceLength(TraceFile, frozen=True, extra="forbid"):
    """The lengths of a recorded trace: rows drawn with replacement, or taken in their order and from the
    top again.

    Under `prompt_tokens` it is the trace's prompts, under `output_tokens` its answers. Where both name one
    trace in one order, a row is drawn once and gives both, so that what belongs together stays together.
    """

    kind: Literal["trace"] = "trace"
    order: Literal["random", "recorded"] = "random"
    low: Tokens = 1
    high: Tokens = MAX_TOKENS

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        one_of_name_and_path(self.name, self.path)
        refuse_disorder(self.low, self.high)
        return self


def _lengths(written: Any) -> Any:
    if isinstance(written, bool | str | list) or written is None:
        raise ValueError(
            f"{written!r} is not a length; write a number of tokens, as in 512, or a distribution, as in "
            "{kind: uniform, low: 100, high: 900}"
        )
    return {"kind": "fixed", "tokens": written} if isinstance(written, int | float) else written


_AnyLength = Annotated[
    FixedLength
    | UniformLength
    | LognormalLength
    | ZipfLength
    | ParetoLength
    | GeometricLength
    | EmpiricalLength
    | TraceLength,
    Field(discriminator="kind"),
]
Lengths = Annotated[
    _AnyLength,
    BeforeValidator(_lengths, json_schema_input_type=int | _AnyLength),
]


class FixedWait(BaseModel, frozen=True, extra="forbid"):
    """Always the same time."""

    kind: Literal["fixed"] = "fixed"
    value_s: Seconds


class ExponentialWait(BaseModel, frozen=True, extra="forbid"):
    """Exponential with this mean."""

    kind: Literal["exponential"] = "exponential"
    mean_s: Seconds


class UniformWait(BaseModel, frozen=True, extra="forbid"):
    """Uniform from `low_s` to `high_s`."""

    kind: Literal["uniform"] = "uniform"
    low_s: Seconds
    high_s: Seconds

    @model_validator(mode="after")
    def _low_to_high(self) -> Self:
        refuse_disorder(self.low_s, self.high_s)
        return self


class LognormalWait(BaseModel, frozen=True, extra="forbid"):
    """Lognormal with this mean and coefficient of variation."""

    kind: Literal["lognormal"] = "lognormal"
    mean_s: Seconds
    cv: Spread


def _waits(written: Any) -> Any:
    return {"kind": "fixed", "value_s": written} if isinstance(written, int | float | str) else written


_AnyWait = Annotated[FixedWait | ExponentialWait | UniformWait | LognormalWait, Field(discriminator="kind")]
Waits = Annotated[
    _AnyWait,
    BeforeValidator(_waits, json_schema_input_type=float | str | _AnyWait),
]


class SharedPrefix(BaseModel, frozen=True, extra="forbid"):
    """Text that many prompts begin with (a system prompt, a document): put in front of the drawn prompt.

    A request has a prefix with probability `share`; it is one of `groups` prefixes, group k with a
    probability proportional to (k+1)**-popularity, and each group's length is drawn once. `block_tokens` is
    the grain in which shared text has block hashes; 16 is vLLM's block size (CacheConfig.block_size).
    """

    tokens: Lengths
    groups: Annotated[Count, Ge(1), Le(10_000_000)] = 1
    popularity: Annotated[float, NotBoolean, Ge(0), Le(20)] = 0.0
    share: Fraction = 1.0
    block_tokens: Annotated[Count, Ge(1), Le(65536)] = 16


def one_of_name_and_path(name: str | None, path: str | None) -> None:
    """ValueError unless exactly one of the two says where a trace is."""
    if (name is None) == (path is None):
        raise ValueError("a trace needs `name` (of a shipped trace) or `path` (of a file), and not both")


def refuse_disorder(low: float, high: float) -> None:
    """ValueError unless low <= high."""
    if low > high:
        raise ValueError(f"low = {low:g}: must be at most high = {high:g}")


def longest_of(distribution: Lengths) -> int | None:
    """The longest length that can be drawn; None if the distribution does not say it."""
    if isinstance(distribution, FixedLength):
        return distribution.tokens
    if isinstance(distribution, EmpiricalLength):
        return max(distribution.values)
    return distribution.high if distribution.kind in ("uniform", "zipf") else None
