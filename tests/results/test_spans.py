from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.results import spans
from sim.results.spans import Durations

GROUP = st.tuples(
    st.floats(0.001, 10), st.sampled_from([-0.9, 0.0, 1e-9, 0.5, 3.0]), st.integers(0, 40), st.integers(0, 5)
)
GROUPS = st.lists(GROUP, min_size=1, max_size=15)


def written_out(groups: list[tuple[float, float, int, int]]) -> np.ndarray:
    values = [np.repeat(np.linspace(a, a + (b * a if n > 1 else 0), n), w) for a, b, n, w in groups]
    return np.concatenate(values)


def durations(groups: list[tuple[float, float, int, int]]) -> Durations:
    first_s = [a for a, _, _, _ in groups]
    last_s = [a + b * a for a, b, _, _ in groups]
    return Durations.of(first_s, last_s, [n for _, _, n, _ in groups], [w for _, _, _, w in groups])


@pytest.mark.slow
@given(groups=GROUPS, few=st.booleans())
def test_statistics_are_those_of_the_values_written_out(groups, few):
    values = written_out(groups)
    found = durations(groups)
    assert found.total == len(values)
    if not len(values):
        assert (found.mean, found.std, found.percentiles([50])) == (None, None, [None])
        return
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert found.std == pytest.approx(values.std(), rel=1e-9, abs=1e-9)
    percents = [0, 1, 37.5, 50, 90, 95, 99, 100]
    with pytest.MonkeyPatch.context() as patch:
        if few:
            patch.setattr(spans, "WRITTEN_OUT", 3)
            patch.setattr(spans, "NARROWED_TO", 3)
        assert found.percentiles(percents) == pytest.approx(np.percentile(values, percents), rel=1e-9)


def test_a_billion_gaps_cost_what_their_groups_cost():
    first_s = np.full(1000, 0.01)
    found = Durations.of(first_s, first_s * 1.5, np.full(1000, 100_000), np.full(1000, 10))
    assert found.total == 1_000_000_000
    assert found.percentiles([50, 99]) == pytest.approx([0.0125, 0.01495], rel=1e-6)
