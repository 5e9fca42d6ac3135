"""Numbers that no machine can meet, truth values and NaN are refused where they are written."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from sim.inputs.arrivals import OnOff, Sessions, TimeVarying
from sim.inputs.engine import Engine, ExpertRouting, Speculation
from sim.inputs.model import Model
from sim.inputs.model_bounds import MAX_LAYERS
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload

LLAMA: dict[str, Any] = {
    "name": "x", "architecture": "llama", "layers": 32, "hidden": 4096, "intermediate": 14336, "heads": 32,
    "kv_heads": 8, "head_dim": 128, "vocab": 128256,
}  # fmt: skip
BURST: dict[str, Any] = {"arrivals": {"kind": "burst"}, "prompt_tokens": 8, "output_tokens": 2, "requests": 1}
STARTS = {"kind": "poisson", "rate_per_s": 1}


@pytest.mark.parametrize(
    ("kind", "written", "said"),
    [
        (Model, LLAMA | {"layers": MAX_LAYERS + 1}, "less than or equal to 4096"),
        (Model, LLAMA | {"heads": 10**30}, "less than or equal to 65536"),
        (Model, LLAMA | {"hidden": True}, "true is not a number"),
        (Model, LLAMA | {"experts": 10**9}, "less than or equal to 65536"),
        (Engine, {"block_size": 10**12}, "less than or equal to 65536"),
        (Engine, {"tensor_parallel_size": True}, "true is not a number"),
        (Engine, {"gpu_memory_utilization": True}, "true is not a number"),
        (Engine, {"max_cudagraph_capture_size": 10**9}, "less than or equal to 65536"),
        (Engine, {"max_num_seqs": 10**13}, "less than or equal to 1000000000000"),
        (
            Speculation,
            {"num_speculative_tokens": 10**9, "acceptance_rate": 0.5},
            "less than or equal to 1024",
        ),
        (
            ExpertRouting,
            {"popularity": "given", "weights": [float("nan")]},
            "must be a finite number, at least 0",
        ),
        (ExpertRouting, {"popularity": "given", "weights": [0, 0]}, "no expert was ever chosen"),
        (Workload, BURST | {"requests": 10**12}, "less than or equal to 100000000"),
        (Workload, BURST | {"slo": {"ttft_ms": True}}, "true is not a number"),
        (
            OnOff,
            {"on_rate_per_s": 1, "mean_on_s": "1 ns", "mean_off_s": "1 ns"},
            "changes 2e\\+09 times between two arrivals.*rate_per_s: 0.5",
        ),
        (TimeVarying, {"pieces": [{"duration_s": "1 ns", "rate_per_s": 1}]}, "changes 1e\\+09 times"),
        (Sessions, {"starts": STARTS, "turns": 10**8}, "more than 10000"),
        (Sessions, {"starts": STARTS, "turns": {"kind": "geometric", "mean": 10**5}}, "more than 10000"),
        (
            Sessions,
            {"starts": STARTS, "turns": {"kind": "trace", "name": "x"}},
            "a trace has lengths, no turns",
        ),
        (Topology, {"name": "x", "own_graph": "abc"}, "must be a directed networkx graph"),
        (Topology, {"name": "x", "own_graph": {}}, "node-link data with the keys nodes and edges"),
        (Topology, {"name": "x", "own_graph": [None]}, "must be a directed networkx graph"),
    ],
)
def test_what_no_machine_can_meet_is_refused(kind: type[BaseModel], written: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        kind.model_validate(written)


def test_a_rate_may_change_often_where_requests_come_often() -> None:
    OnOff.model_validate({"on_rate_per_s": 1e6, "mean_on_s": "1 us", "mean_off_s": "1 us"})
    TimeVarying.model_validate({"pieces": [{"duration_s": "1 ns", "rate_per_s": 1}], "repeat": False})
