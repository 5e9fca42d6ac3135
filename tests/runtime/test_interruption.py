from __future__ import annotations

import sim
from sim.runtime.interruption import Interruption


def test_a_script_may_end_a_run_too() -> None:
    interruption = Interruption()

    def ends(env: object, fabric: object) -> object:
        yield env.timeout(5.0)  # type: ignore[attr-defined]
        assert interruption.ask()

    scenario = sim.Scenario.model_validate(
        {"topology": "a100-x4", "model": "llama-3-8b", "workload": {
            "arrivals": {"kind": "constant", "rate_per_s": 1}, "prompt_tokens": 9, "output_tokens": 2,
            "requests": 100}}
    )  # fmt: skip
    result = sim.simulate(scenario, beside=[ends], interruption=interruption)  # type: ignore[list-item]
    assert (result.ended, result.is_complete, result.requests.height) == ("interrupted", False, 5)


def test_an_interruption_is_refused_where_no_run_is_under_way() -> None:
    assert not Interruption().ask()
