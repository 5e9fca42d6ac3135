"""A stage at work: folded or played, cut short, stopped, and what it leaves on its links."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from simpy import Environment

from sim.cost.batch import Batch, Causes
from sim.cost.collectives.demands import Demand
from sim.cost.program import Op, Program, Traffic
from sim.cost.step_cost import FloatArray
from sim.runtime.engine.stage import Passed, Stage
from sim.runtime.fabric.fabric import Fabric

DEMAND = Demand((0, 1), (10.0, 5.0), latency_s=0.25)


class TwoLayers:
    """Two layers of a kernel of 1 s and 10 bytes over a link of 10 bytes/s after 0.25 s: 4.5 s a step."""

    def step(self, batch: Batch) -> tuple[float, Causes]:
        return 4.5, Causes(compute=2.0, collective_latency=0.5, collective_bytes=2.0)

    def decode_steps(self, batch: Batch, steps: int) -> tuple[FloatArray, Callable[[int], Causes]]:
        return np.full(steps, 4.5), lambda n: Causes(compute=n * 4.5)

    def program(self, batch: Batch) -> Program:
        return Program([((Op("kernel", 1.0), Op("all_reduce", 1.25, DEMAND)), 2, 2.25)])

    def traffic(self, batch: Batch) -> Traffic:
        return self.program(batch).traffic()


def at_work(fold: bool) -> tuple[Environment, Fabric, Stage]:
    env = Environment()
    fabric = Fabric(env, {"a": 10.0, "b": 10.0})
    return env, fabric, Stage(env, fabric, TwoLayers(), fold=fold)


def passed_by(env: Environment, stage: Stage, steps: int = 1) -> list[Passed]:
    seen: list[Passed] = []
    stage.start(Batch(decodes=1), steps, seen.append)
    return seen


@pytest.mark.parametrize("fold", [True, False])
def test_a_step_takes_its_ops_one_after_the_other(fold: bool) -> None:
    env, fabric, stage = at_work(fold)
    seen = passed_by(env, stage)
    env.run()
    assert list(seen[0].ends_s) == [4.5]
    assert [(row.n_bytes, row.busy_s) for row in fabric.rows()] == [(20.0, 2.0), (10.0, 2.0)]


def test_folded_steps_are_one_event() -> None:
    env, _, stage = at_work(fold=True)
    seen = passed_by(env, stage, steps=1000)
    env.step()
    assert env.now == 4500.0
    assert seen[0].steps == 1000


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize(
    ("comes_at", "end_s"),
    [
        (0.5, 4.5),  # gone before the first bytes flow
        (1.5, 5.0),  # half of its second meets the collective, which then has half of the link
        (2.0, 4.75),  # a quarter of its second is left, and becomes two
        (2.25, 4.5),  # at the instant of the op's end
    ],
)
def test_a_foreign_transfer_delays_the_op_that_it_meets(fold: bool, comes_at: float, end_s: float) -> None:
    """5 bytes over the same link, half a second alone: the collective waits for at most as many."""
    env, fabric, stage = at_work(fold)
    seen = passed_by(env, stage)
    env.run(until=comes_at)
    fabric.transfer({"a": 5.0})
    env.run()
    assert seen[0].end_s == pytest.approx(end_s, rel=1e-12)
    assert seen[0].sharing_s == pytest.approx(end_s - 4.5, abs=1e-12)


def test_a_stage_folds_again_as_soon_as_it_is_left_alone() -> None:
    """Five bytes come and go during its second kernel, from 2.3 s to 2.8 s."""
    env, fabric, stage = at_work(fold=True)
    seen = passed_by(env, stage)
    env.run(until=2.3)
    assert stage.is_folded
    fabric.transfer({"a": 5.0})
    env.run(until=2.7)
    assert not stage.is_folded
    env.run(until=2.9)
    assert stage._run is not None
    assert stage._run.folded
    env.run()
    assert list(seen[0].ends_s) == [4.5]
    assert [(row.n_bytes, row.busy_s) for row in fabric.rows()] == [(25.0, 2.5), (10.0, 2.0)]


@pytest.mark.parametrize(("instant", "more", "steps"), [(1.0, 0, 1), (4.5, 0, 1), (4.6, 0, 2), (4.6, 1, 3)])
def test_a_cut_ends_the_run_with_the_step_in_progress_or_later(instant: float, more: int, steps: int) -> None:
    env, _, stage = at_work(fold=True)
    seen = passed_by(env, stage, steps=10)
    env.run(until=instant)
    stage.cut(more)
    env.run()
    assert seen[0].steps == steps


def test_a_run_of_steps_outlives_foreign_transfers() -> None:
    """Five bytes meet the second step's first collective for half a second, and the fourth's."""
    env, fabric, stage = at_work(fold=True)
    seen = passed_by(env, stage, steps=5)
    for instant in (4.5 + 1.5, 3 * 4.5 + 0.5 + 1.5):
        env.run(until=instant)
        fabric.transfer({"a": 5.0})
    env.run()
    assert [list(passed.ends_s) for passed in seen] == [[4.5, 9.5, 14.0, 19.0, 23.5]]
    assert seen[0].sharing_s == pytest.approx(1.0)
    assert [row.n_bytes for row in fabric.rows()] == pytest.approx([5 * 20.0 + 10.0, 5 * 10.0])


@pytest.mark.parametrize(("instant", "more", "steps"), [(6.2, 0, 2), (6.2, 1, 3), (7.5, 0, 2), (9.5, 0, 2)])
def test_a_run_that_is_played_or_folded_again_can_be_cut(instant: float, more: int, steps: int) -> None:
    """The second of ten steps shares its first collective's link, from 6 s to 7 s, and ends at 9.5 s."""
    env, fabric, stage = at_work(fold=True)
    seen = passed_by(env, stage, steps=10)
    env.run(until=6.0)
    fabric.transfer({"a": 5.0})
    env.run(until=instant)
    stage.cut(more)
    env.run()
    assert seen[0].steps == steps


def test_batches_wait_for_the_stage_and_say_for_how_long() -> None:
    env, _, stage = at_work(fold=True)
    first, second = passed_by(env, stage), passed_by(env, stage)
    env.run()
    assert first[0].waited_s == 0.0
    assert (second[0].start_s, second[0].waited_s, second[0].end_s) == (4.5, 4.5, 9.0)
    assert stage.busy_s == 9.0


def test_a_stage_that_stops_hands_in_what_has_ended_and_counts_what_is_under_way() -> None:
    env, fabric, stage = at_work(fold=True)
    seen = passed_by(env, stage, steps=10)
    env.run(until=4.5 + 1.75)  # half a second into the bytes of the second step's first collective
    stage.stop()
    assert seen[0].steps == 1
    assert stage.busy_s == 6.25
    assert [row.n_bytes for row in fabric.rows()] == pytest.approx([25.0, 12.5])


def test_two_stages_on_one_link_play_and_share_it() -> None:
    env = Environment()
    fabric = Fabric(env, {"a": 10.0, "b": 10.0})
    one, two = (Stage(env, fabric, TwoLayers(), fold=True) for _ in range(2))
    seen = [passed_by(env, one), passed_by(env, two)]
    env.run()
    assert [passed[0].end_s for passed in seen] == [6.5, 6.5]  # each collective's second becomes two


def test_a_stage_that_rests_is_in_no_others_way() -> None:
    env = Environment()
    fabric = Fabric(env, {"a": 10.0, "b": 10.0})
    one, two = (Stage(env, fabric, TwoLayers(), fold=True) for _ in range(2))
    passed_by(env, one)
    env.run()
    seen = passed_by(env, two, steps=5)
    env.step()
    assert seen[0].steps == 5
