"""Ranks that do not take the same time: kernels with jitter, and ranks that are always slow."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from sim.inputs.quantities import NotBoolean

MAX_FACTOR = 1000.0


class Jitter(BaseModel):
    """How much longer the kernels of a rank take in one step than they do in the mean: a factor of mean 1.

    Each rank draws one for each step, since what slows a rank (its clock, an interrupt, its memory) outlasts
    a kernel; all wait for the slowest. `lognormal` or `gamma`; a gamma of cv 1 is exponential.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["lognormal", "gamma"] = "lognormal"
    cv: Annotated[float, NotBoolean, Field(gt=0.0, le=10.0)]


class Straggler(BaseModel):
    """A rank, counted over the GPUs of an engine from 0, whose kernels take `factor` times as long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: Annotated[int, NotBoolean, Field(ge=0, lt=1_000_000)]
    factor: Annotated[float, NotBoolean, Field(gt=0.0, le=MAX_FACTOR)]
