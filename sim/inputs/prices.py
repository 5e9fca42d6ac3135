"""What GPUs and electricity cost: the user's own prices, or a row of a small table of published ones."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge, Le
from pydantic import BaseModel, ConfigDict, model_validator

from sim.inputs.quantities import NotBoolean

Dollars = Annotated[float, NotBoolean, Ge(0), Le(1e6)]
SOURCE = "SemiAnalysis InferenceX constants, April 2026"
PUBLISHED: dict[str, dict[str, float]] = {
    "owned_hyperscaler": {
        "h100-sxm": 1.30, "h200-sxm": 1.41, "b200-sxm": 1.95, "b300-sxm": 2.34, "gb200": 2.21, "gb300": 2.65,
    },
    "rented_3_years": {
        "h100-sxm": 1.30, "h200-sxm": 1.60, "b200-sxm": 2.90, "b300-sxm": 3.48, "gb200": 3.30, "gb300": 3.96,
    },
}  # fmt: skip
"""Dollars a GPU and hour, electricity included: total cost of ownership of a hyperscaler, and rent."""


class Prices(BaseModel):
    """Dollars for a GPU and hour, and for a kWh where `gpu_hour` does not have it in it.

    `published` takes the price of the GPU's kind from the table instead; it includes electricity.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpu_hour: Dollars | None = None
    kwh: Dollars | None = None
    published: Literal["owned_hyperscaler", "rented_3_years"] | None = None

    @model_validator(mode="after")
    def _one_price_of_a_gpu(self) -> Self:
        if (self.gpu_hour is None) == (self.published is None):
            raise ValueError("write one of gpu_hour and published, as in {gpu_hour: 2.50, kwh: 0.08}")
        if self.published is not None and self.kwh is not None:
            raise ValueError("published prices include electricity; leave out kwh")
        return self

    def gpu_hour_of(self, gpu: str) -> float | None:
        """Dollars a GPU of this kind and hour; None where the table has no such GPU."""
        return self.gpu_hour if self.published is None else PUBLISHED[self.published].get(gpu)
