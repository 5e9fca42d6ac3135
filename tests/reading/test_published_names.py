"""Published names lead to what is shipped."""

from __future__ import annotations

import pytest

from sim.catalog import load_gpu, load_model, load_topology
from sim.reading.published_names import GPUS, MODELS, SYSTEMS


@pytest.mark.parametrize("name", sorted(set(GPUS.values())))
def test_every_gpu_is_in_the_catalog(name: str) -> None:
    assert load_gpu(name).name == name


@pytest.mark.parametrize("name", sorted(set(SYSTEMS.values())))
def test_every_system_is_in_the_catalog(name: str) -> None:
    assert load_topology(name).graph.graph["gpus"]


@pytest.mark.parametrize("name", sorted(set(MODELS.values())))
def test_every_model_is_in_the_catalog(name: str) -> None:
    assert load_model(name).name == name


@pytest.mark.parametrize("name", sorted(GPUS.keys() & SYSTEMS.keys()))
def test_a_system_that_is_named_by_its_gpu_has_that_gpu(name: str) -> None:
    graph = load_topology(SYSTEMS[name]).graph
    assert graph.nodes[graph.graph["gpus"][0]]["model"] == GPUS[name]
