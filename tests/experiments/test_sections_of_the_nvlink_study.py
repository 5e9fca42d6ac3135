"""The other sections of the study of NVLink domains: each against arithmetic that can be done by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.how_big_should_an_nvlink_domain_be import layouts, live, memory, sizes, spares, sparse
from experiments.how_big_should_an_nvlink_domain_be.machines import RACK, Machine, Refused, Replica, changed
from sim.studies.points import Point
from sim.studies.points import Row as Ran
from sim.theory import domain_sizing as theory
from sim.views.answer import Answer, Figure, Row, Section

ROOT = Path(__file__).parents[2]


def test_groups_hold_the_experts_that_make_them_even():
    words = {group: sizes.layout(sizes.DEEPSEEK, group)[0] for group in (64, 72, 320, 576)}
    assert words == {
        64: "EP64",
        72: "EP72, 256 + 32 experts",
        320: "EP320, 256 + 64 experts",
        576: "EP576, 256 + 320 experts",
    }
    assert sizes.layout(sizes.LLAMA, 288)[:2] == ("4 x TP64", 4)


@pytest.mark.slow
def test_a_group_that_outgrows_its_domain_sends_bytes_outside_and_slows_down():
    whole, cut = (
        next(sizes.of_group(sizes.LLAMA, domain, 16, (64,))) for domain in (sizes.RACK, sizes.ISLAND)
    )
    assert whole.step.outside_bytes == 0.0 < cut.step.outside_bytes
    assert cut.per_user < 0.7 * whole.per_user
    assert whole.per_gpu == pytest.approx(whole.per_user * 64 / 16)


@pytest.mark.slow
def test_an_even_batch_over_ranks_is_refused_where_memory_ends():
    keys = {"engine.data_parallel_size": 8, "engine.enable_expert_parallel": True}
    replica = Replica(changed(sizes.base(sizes.DEEPSEEK), Machine(RACK, RACK), keys))
    assert replica.step(9, 4096).seconds >= replica.step(8, 4096).seconds
    with pytest.raises(Refused, match="must be at most"):
        replica.step(80_000, 4096)


@pytest.mark.slow
def test_larger_memory_holds_more_and_faster_memory_reads_sooner():
    base, larger, faster = (
        memory.replica(memory.DEEPSEEK, 4, *axes) for axes in ((1.0, 1.0), (1.5, 1.0), (1.0, 1.5))
    )
    assert larger.plan.memory.kv_tokens > 2.0 * base.plan.memory.kv_tokens
    assert larger.step(64, 4096).seconds == base.step(64, 4096).seconds > faster.step(64, 4096).seconds


def test_spares_counted_on_a_clock_are_those_of_the_closed_forms():
    counted = spares.simulated(spares.TOGETHER, 0.05, 40_000)
    assert counted == pytest.approx(spares.TOGETHER.short(0.05), rel=0.1)
    assert spares.rule_simulated(24.0, 30_000) == pytest.approx(spares.rule_closed(24.0), rel=0.05)
    assert spares.TOGETHER.short(0.02) == pytest.approx(1 - theory.at_least_up(16, 18, 0.02))


def test_a_rack_that_waits_for_its_third_tray_serves_93_days():
    days = sum(50_700 / 4 / (18 - down) for down in range(3)) / 24
    assert days == pytest.approx(93, abs=1)
    assert spares.rule_closed(72.0) == pytest.approx(3 / (days + 3), rel=1e-9)


def test_a_sparse_model_reads_what_its_tokens_chose():
    dense, mixture = sparse.shape("llama-3-70b"), sparse.shape("deepseek-v3")
    assert dense.balanced == pytest.approx(5e15 / 8e12 / 2)
    assert mixture.read(1) == pytest.approx(mixture.active, rel=1e-3)
    assert mixture.read(10**6) == pytest.approx(mixture.held, rel=1e-6)
    assert mixture.balanced / dense.balanced == pytest.approx(mixture.held / mixture.active)


@pytest.mark.slow
def test_a_torus_carries_every_byte_over_four_links_where_a_switch_carries_it_over_one():
    distance = sum(min(i, 8 - i) for i in range(8)) / 8 * 2 * 64 / 63
    switch, torus = layouts.machines(True)
    assert torus.all_to_all_s / switch.all_to_all_s == pytest.approx(distance, rel=1e-3)
    assert all(ours >= theirs for ours, theirs in zip(torus.steps_s, switch.steps_s, strict=True))


def test_the_highest_rate_lies_where_the_time_per_token_crosses_its_objective():
    layout = live.Layout(RACK, 8, 8)
    ran = {
        (layout, rate): (Ran(Point(0, (), 0), "done", "", {"p90_tpot_ms": tpot, "p90_ttft_ms": ttft}),)
        for rate, tpot, ttft in ((1.0, 20.0, 100.0), (4.0, 80.0, 100.0), (8.0, 20.0, 9000.0))
    }
    found = live.Live(ran, {})
    assert found.capacity(layout, 40.0) == pytest.approx(2.0)
    assert found.capacity(layout, 10.0) == 0.0
    assert found.capacity(layout, 100.0) == 4.0


@pytest.mark.slow
def test_a_study_is_a_page_of_sections_with_their_figures_and_what_they_rest_on(tmp_path):
    import altair as alt

    chart = alt.Chart(alt.InlineData(values=[{"x": 1}])).mark_point().encode(x="x:Q")
    section = Section(
        "First", ("Asked.",), (Row("a", "b", "s", 1.0, 2.0, source="c"),), "Found.", "measured",
        (Figure("dots", "One dot.", lambda: chart),),
    )  # fmt: skip
    answer = Answer("How?", section.rows, "So.", sections=(section,))
    assert [path.name for path in answer.save(tmp_path)] == ["dots.png", "answer.json", "report.html"]
    page = (tmp_path / "report.html").read_text()
    for said in ("1. First", "Asked.", "One dot.", "Found.", "measured", "data:image/png", "All 1 numbers"):
        assert said in page
    assert answer.as_dict()["sections"][0]["figures"] == {"dots": "One dot."}


@pytest.mark.slow
@pytest.mark.parametrize("words", [["experiments/{}"], ["-m", "experiments.{}"]])
def test_the_folder_runs_by_its_path_and_as_a_module(words):
    name = "how_big_should_an_nvlink_domain_be"
    command = [sys.executable, *(word.format(name) for word in words), "--help"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--store" in told
