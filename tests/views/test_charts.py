"""Charts of a run add up to what its rows say."""

from __future__ import annotations

import numpy as np
import polars
import pytest

from sim.simulate import Result
from sim.views import charts
from tests.views.conftest import drawn


def test_the_timeline_adds_up_to_each_requests_latency(result: Result) -> None:
    spans = polars.DataFrame(drawn(charts.request_timeline(result.requests)))
    seconds = spans.group_by("request").agg((polars.col("end") - polars.col("begin")).sum()).sort("request")
    latency = (
        result.requests.sort("request_id")["finished_s"] - result.requests.sort("request_id")["arrival_s"]
    )
    assert np.allclose(seconds["end"].to_numpy(), latency.to_numpy())


def test_the_stack_of_causes_is_as_long_as_the_mean_latency(result: Result) -> None:
    bars = polars.DataFrame(drawn(charts.blame_bars(result.blame, result.requests)))
    stack = bars.filter(polars.col("group").str.starts_with("all"))["seconds"].sum()
    latency = (result.requests["finished_s"] - result.requests["arrival_s"]).to_numpy().mean()
    assert stack == pytest.approx(latency, rel=1e-4)


def test_links_are_never_shown_fuller_than_full(result: Result) -> None:
    bars = polars.DataFrame(drawn(charts.link_use(result.links, result.end_s)))
    assert bars["share"].to_numpy().max() <= 1.0 + 1e-9
    assert bars.height > 0


def test_a_request_that_never_finished_keeps_the_curve_below_one() -> None:
    requests = polars.DataFrame({
        "arrival_s": [0.0, 1.0], "first_token_s": [0.5, None], "finished_s": [2.0, None],
        "generated_tokens": [4, 0], "status": ["finished", "unfinished"],
    })  # fmt: skip
    shares = [row["share"] for row in drawn(charts.latency_cdf(requests))]
    assert max(shares) == 0.5
