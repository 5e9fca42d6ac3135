from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim.validation.tokens_in_time import tokens_between


def test_tokens_behind_the_first_are_spread_evenly_and_those_of_adjoining_times_add_up() -> None:
    requests: Any = {
        "first_token_s": np.array([0.0, 1.0]),
        "finished_s": np.array([4.0, 1.0]),
        "generated_tokens": np.array([9, 1]),
    }
    assert tokens_between(requests, 0.0, 1.0) == pytest.approx(1 + 2)
    assert tokens_between(requests, 1.0, 2.0) == pytest.approx(1 + 2)
    assert sum(tokens_between(requests, begin, begin + 1.0) for begin in range(5)) == pytest.approx(10)
