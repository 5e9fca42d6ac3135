"""Ray as an executor: what `sweep` and its kin ask of `concurrent.futures`, and no more."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

RETRIES = 2  # of a point whose worker is lost, as with dask


class RayExecutor(Executor):
    """Points as Ray tasks of one processor each. `ray` is the module, initialised: `ray.init("auto")` on a
    machine of the cluster, `ray.init("ray://host:10001")` from outside.

    A reference's own `future()` is a `concurrent.futures.Future`, so that rows come as they end.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._remote: dict[Callable[..., Any], Any] = {}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        remote = self._remote.get(fn)
        if remote is None:  # made once: Ray sends a function to its workers once each time it is made
            remote = self._remote[fn] = self._ray.remote(num_cpus=1, max_retries=RETRIES)(fn)
        future: Future[Any] = remote.remote(*args, **kwargs).future()
        return future
