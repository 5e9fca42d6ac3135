"""A GPU and a type of link, as datasheets and a few measurements describe them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sim.inputs.kernel_parameters import KernelParameters
from sim.inputs.power import GpuPower
from sim.inputs.provenance import Provenance
from sim.inputs.quantities import (
    DTYPE_BYTES,
    Bytes,
    BytesPerSecond,
    Count,
    FlopPerSecond,
    Fraction,
    LatencySeconds,
    MemoryBytes,
    MemoryBytesPerSecond,
)


class Gpu(BaseModel):
    """One GPU. Compute rates are dense peaks, `hbm_bytes` is the datasheet's.

    `visible_hbm_bytes` is what the driver reports, which memory checks use: an "80 GB" A100 shows 80 GiB.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    hbm_bytes: MemoryBytes
    visible_hbm_bytes: MemoryBytes | None = None
    hbm_bytes_per_s: MemoryBytesPerSecond
    flops: dict[str, FlopPerSecond] = Field(min_length=1)
    sms: Count = Field(gt=0)
    l2_bytes: Bytes = Field(gt=0)
    pcie_generation: Count
    kernels: KernelParameters | None = None
    power: GpuPower | None = None
    provenance: dict[str, Provenance] = {}

    @field_validator("flops")
    @classmethod
    def _known_number_formats(cls, flops: dict[str, float]) -> dict[str, float]:
        for dtype in flops:
            if dtype not in DTYPE_BYTES:
                raise ValueError(f"{dtype!r} is not a number format; {', '.join(DTYPE_BYTES)} are")
        return flops

    def under(self, engine: str) -> Gpu:
        """The same GPU with the kernels of another engine, where its were measured."""
        own = self.kernels.engines.get(engine) if self.kernels else None
        if self.kernels is None or own is None:
            return self
        fitted = {
            name: {**getattr(self.kernels, name), **formats}
            for name in own.model_fields_set
            if isinstance(formats := getattr(own, name), dict) and name not in ("engines", "provenance")
        }
        return self.model_copy(update={"kernels": self.kernels.model_copy(update=fitted)})

    @property
    def usable_hbm_bytes(self) -> float:
        """What software sees of the memory: the driver's figure where it is known, else the datasheet's."""
        return self.hbm_bytes if self.visible_hbm_bytes is None else self.visible_hbm_bytes


class LinkType(BaseModel):
    """One link: raw bytes/s per direction, the share of it that is payload, and seconds per traversal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bytes_per_s: BytesPerSecond
    efficiency: Fraction = 1.0
    latency_s: LatencySeconds | None = None
    provenance: dict[str, Provenance] = {}

    @property
    def payload_bytes_per_s(self) -> float:
        """What a transfer gets: raw rate times efficiency, per direction."""
        return self.bytes_per_s * self.efficiency
