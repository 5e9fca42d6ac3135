"""What one pipeline stage of one replica holds: which layers of which model, on which GPUs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sim.inputs.engine import Engine
from sim.inputs.hardware import Gpu
from sim.inputs.model import Model
from sim.inputs.precision import Precision


@dataclass(frozen=True)
class Shard:
    """Layers `first_layer` and on, on `groups` of tensor-parallel ranks: one group a data-parallel rank.

    All groups hold the same attention weights; experts are split over all GPUs of all groups. `power_cap_w`:
    the limit that is set for each of its GPUs.
    """

    model: Model
    engine: Engine
    precision: Precision
    gpu: Gpu
    groups: tuple[tuple[str, ...], ...]
    first_layer: int
    layers: int
    power_cap_w: float | None = None

    @property
    def ranks(self) -> tuple[str, ...]:
        """All GPUs of the stage, group after group."""
        return tuple(gpu for group in self.groups for gpu in group)

    @property
    def is_first(self) -> bool:
        return self.first_layer == 0

    @property
    def is_last(self) -> bool:
        return self.first_layer + self.layers == self.model.layers

    @property
    def tensor_parallel_size(self) -> int:
        return len(self.groups[0])

    @property
    def heads_of_rank(self) -> int:
        """Attention heads that a tensor-parallel rank computes."""
        return -(-self.model.heads // self.tensor_parallel_size)

    @property
    def kv_heads_of_rank(self) -> int:
        """KV heads that a tensor-parallel rank keeps; replicated where there are more ranks than heads."""
        return -(-self.model.kv_heads // self.tensor_parallel_size)

    @property
    def experts_with_copies(self) -> int:
        """Experts of a layer that all GPUs of the stage hold between them, redundant copies counted."""
        copies = self.engine.expert_routing.redundant_experts if self.engine.enable_expert_parallel else 0
        return self.model.experts + copies

    @property
    def kinds_of_layers(self) -> tuple[tuple[Model, bool], ...]:
        """Of every layer of the stage its shapes, and whether it has experts."""
        layers = range(self.first_layer, self.first_layer + self.layers)
        return tuple((self.model.shape_of(layer), self.model.is_moe_layer(layer)) for layer in layers)

    def of_shape(self, shape: Model) -> Shard:
        """The shard as if all its layers were of one shape; itself where they are."""
        return self if shape is self.model else replace(self, model=shape)

    @property
    def dense_layers(self) -> int:
        """Layers of this stage without experts."""
        last = self.first_layer + self.layers
        return sum(not self.model.is_moe_layer(layer) for layer in range(self.first_layer, last))
