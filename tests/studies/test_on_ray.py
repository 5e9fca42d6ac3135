"""Ray through the executor protocol, with a module that does what Ray's documentation says of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import sim
from sim.studies.on_ray import RETRIES, RayExecutor
from tests.studies.scenarios import scenario


class Fake:
    """`ray.remote(**options)(f).remote(*args)` is a reference, whose `future()` has what comes of f."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []

    def remote(self, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        def of(function: Callable[..., Any]) -> Any:
            self.made.append(options)

            def begun(*args: Any) -> Any:
                future: Future[Any] = Future()
                if args[1].seed == 2:
                    future.set_exception(RuntimeError("the node died"))
                else:
                    future.set_result(function(*args))
                return SimpleNamespace(future=lambda: future)

            return SimpleNamespace(remote=begun)

        return of


def test_rows_come_from_ray_as_from_any_executor_and_what_is_lost_is_said() -> None:
    ray = Fake()
    found = sim.sweep(
        scenario(), {"replicas": [1]}, seeds=range(3), executor=RayExecutor(ray), progress=False
    )
    assert [row.status for row in found.rows] == ["done", "done", "failed"]
    assert "the node died" in found.rows[2].reason
    assert (
        found.rows[0].summary
        == sim.sweep(scenario(), {"replicas": [1]}, executor=RayExecutor(Fake()), progress=False)
        .rows[0]
        .summary
    )
    assert ray.made == [{"num_cpus": 1, "max_retries": RETRIES}]
