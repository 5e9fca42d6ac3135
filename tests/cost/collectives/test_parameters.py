from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import yaml

from sim.cost.collectives.parameters import collectives_folder, default_parameters, parameters_of
from sim.cost.network import Network
from sim.inputs.errors import InfeasibleError
from tests.cost.small_graphs import servers


def files() -> dict[str, Any]:
    return {path.stem: yaml.safe_load(path.read_text()) for path in collectives_folder().glob("*.yaml")}


def one_server(model: str, nvlink: float = 450e9) -> Network:
    graph = servers(nvlink=nvlink)
    for gpu in graph.graph["gpus"]:
        graph.nodes[gpu]["model"] = model
    return Network(graph)


def test_a_gpu_has_the_parameters_of_the_longest_name_that_it_begins_with() -> None:
    parameters = default_parameters()
    for gpu, name in parameters.gpus.items():
        there = one_server(gpu)
        assert parameters.architecture(there, there.gpus[0]).name == name


def test_an_unknown_gpu_takes_the_stand_in_that_is_nearest_by_nvlink_rate() -> None:
    parameters = default_parameters()
    rates = [rate for rate, _ in parameters.nvlink_stand_ins]
    for rate, name in parameters.nvlink_stand_ins:
        if rate and rates.count(rate) == 1:
            there = one_server("x1", nvlink=rate)
            assert parameters.architecture(there, there.gpus[0]).name == name
    slow = one_server("x1", nvlink=1e9)
    assert (
        parameters.architecture(slow, slow.gpus[0])
        == parameters.architectures[min(parameters.nvlink_stand_ins)[1]]
    )


def test_a_kind_of_gpu_may_borrow_the_nccl_of_another() -> None:
    described = files()
    blocks = described["inside"]["architectures"]
    first, second, *_ = (name for name in blocks if not isinstance(blocks[name]["nccl"], str))
    blocks[second]["nccl"] = first
    read = parameters_of(described).architectures
    assert read[second].nccl == read[first].nccl


def test_a_number_without_a_meaning_is_refused_with_those_that_have_one() -> None:
    described = deepcopy(files())
    block = next(b for b in described["inside"]["architectures"].values() if not isinstance(b["nccl"], str))
    block["nccl"]["direct"]["speed"] = 1.0
    with pytest.raises(InfeasibleError, match="speed is no parameter of Direct; base_s, efficiency"):
        parameters_of(described)
