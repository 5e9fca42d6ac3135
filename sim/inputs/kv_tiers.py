"""KV caches below HBM: host memory, local NVMe, a remote store, with what fits and how it is written."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Gt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sim.inputs.quantities import Bytes, BytesPerSecond, LatencySeconds

TIERS = ("host", "nvme", "remote")
"""From the one nearest to the GPUs on: what is evicted from one goes to the next that there is."""


def _assumed(default: float, source: str) -> float:
    field: float = Field(default, json_schema_extra={"tag": "assumed", "source": source})
    return field


class KvTier(BaseModel):
    """A place that keeps the KV of prefixes, up to `capacity_bytes`, least recently used first out.

    Transfers take what the links allow; `read_bytes_per_s` and `write_bytes_per_s` hold one engine to less,
    where software or the medium is slower than the links (all ranks together). `latency_s` passes before each
    transfer. `staging_bytes` is the most that waits to be written; what comes while so much waits is not
    kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    capacity_bytes: Annotated[Bytes, Gt(0)]
    read_bytes_per_s: BytesPerSecond | None = None
    write_bytes_per_s: BytesPerSecond | None = None
    latency_s: LatencySeconds = _assumed(20e-6, "launch of copies by a stream; small beside milliseconds")
    staging_bytes: Annotated[Bytes, Gt(0)] = _assumed(8e9, "the KV of one long prompt; engines differ")


class NvmeTier(KvTier):
    """Drives in the servers: the topology's parts of kind `store`."""

    latency_s: LatencySeconds = _assumed(100e-6, "a random read of a data-centre drive takes 60-100 us")


class RemoteTier(KvTier):
    """A store that all engines share, behind the NICs.

    `place` is a place of the topology (`node1.host0`), or a server (`node1`), whose host memory it then is;
    left out, the stores that stand in the network itself.
    """

    place: str | None = None
    latency_s: LatencySeconds = _assumed(100e-6, "look-up and one RDMA round trip")


class KvTiers(BaseModel):
    """The tiers of one engine. `host` and `nvme` are its own, `remote` belongs to all engines that name it.

    `write: through` copies a prefix as soon as it has been computed, and holds its HBM blocks meanwhile
    (vLLM's offloading connector, LMCache, SGLang's default); `on_eviction` copies it when HBM takes its
    blocks for something else. From tier to tier, prefixes move on eviction.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    write: Literal["through", "on_eviction"] = "through"
    host: KvTier | None = None
    nvme: NvmeTier | None = None
    remote: RemoteTier | None = None

    @model_validator(mode="after")
    def _some_tier(self) -> Self:
        if not self.present:
            raise ValueError(
                f"no tier is written; name one of {', '.join(TIERS)}, as in host: {{capacity_bytes: 512 GB}}"
            )
        return self

    @property
    def present(self) -> dict[str, KvTier]:
        """The tiers that there are, in order."""
        written = {name: getattr(self, name) for name in TIERS}
        return {name: tier for name, tier in written.items() if tier is not None}
