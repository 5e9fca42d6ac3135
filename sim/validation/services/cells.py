"""What errors of services are grouped by: the kind of model and the GPU, by their names in the catalog."""

from __future__ import annotations

from functools import cache

from sim.basis import model_kind
from sim.catalog import load_model, load_topology


@cache
def kind_of_model(model: str) -> str:
    """The kind of a shipped model."""
    return model_kind(load_model(model))


@cache
def gpu_of(topology: str) -> str:
    """The GPU of a shipped machine."""
    return next(iter(load_topology(topology).gpus))
