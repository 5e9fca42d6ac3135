"""A fabric without contention, for the question what contention costs: every transfer has its links to
itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sim.runtime.clock import COMPLETION, at
from sim.runtime.fabric import Fabric
from sim.runtime.transfer import DemandLike, State, Transfer, Watcher


class UnsharedFabric(Fabric):
    """Links are as fast as they are built, however many transfers are on them; nobody is ever disturbed.

    Busy seconds count every transfer's own time, so a link may be busy for longer than the run.
    """

    def start(
        self,
        demand: DemandLike,
        *,
        weight: float = 1.0,
        began_at: float | None = None,
        planned_end: float | None = None,
        on_done: Callable[[Transfer], None] | None = None,
        owner: Watcher | None = None,
    ) -> Transfer:
        plan = self._plans.of(demand)
        flows_s = (self.env.now if began_at is None else began_at) + plan.latency_s
        transfer = Transfer(self.env, plan, weight, flows_s, planned_end, on_done, owner)
        transfer.state = State.ALONE
        transfer.end_s = flows_s + plan.alone_s if planned_end is None else planned_end
        at(self.env, transfer.end_s, self._ended, COMPLETION, transfer)
        return transfer

    def is_quiet(self, links: tuple[int, ...], watcher: Watcher | None = None) -> bool:
        return True

    def watch(self, links: Iterable[int], watcher: Watcher) -> None:
        pass

    def unwatch(self, links: Iterable[int], watcher: Watcher) -> None:
        pass

    def rest(self, links: tuple[int, ...], watcher: Watcher) -> None:
        pass

    def _ended(self, transfer: Transfer) -> None:
        if transfer.state is not State.ALONE:
            return  # given up
        self._use.carry(transfer.plan.links, transfer.plan.n_bytes, 1.0, transfer.plan.alone_s)
        self._happen(transfer)
