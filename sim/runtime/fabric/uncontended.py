"""A fabric without contention, to measure what contention costs: each transfer has its links to itself."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping

from simpy import Environment

from sim.runtime.clock import COMPLETION, at
from sim.runtime.fabric.fabric import CompiledLinks, Fabric
from sim.runtime.fabric.link_counters import LinkRow
from sim.runtime.fabric.transfer import CompiledDemand, State, Transfer, Watcher


class UncontendedFabric(Fabric):
    """Every transfer takes its `isolated_s` on the links as built; no watcher is ever disturbed.

    Busy seconds add up over transfers, so a link may be busy for longer than the run. Changes of capacity
    have no effect on transfers.
    """

    def __init__(self, env: Environment, capacities: Mapping[Hashable, float] | CompiledLinks) -> None:
        super().__init__(env, capacities)
        self._under_way: dict[Transfer, None] = {}

    def abort(self, transfer: Transfer) -> float:
        now, part = self.env.now, transfer.done_part(self.env.now)
        if transfer.state is State.UNCONTENDED:
            del self._under_way[transfer]
            transfer.state = State.ABORTED
            lasted_s = max(0.0, now - transfer.flows_s)
            self._counters.carry(transfer.demand.links, transfer.demand.n_bytes, part, lasted_s)
        return part

    def rows(self, until_s: float | None = None) -> list[LinkRow]:
        now, rows = self.env.now, super().rows(until_s)
        for transfer in self._under_way:
            part, lasted_s = transfer.done_part(now), max(0.0, now - transfer.flows_s)
            for link, amount in zip(transfer.demand.links, transfer.demand.n_bytes, strict=True):
                row = rows[link]
                rows[link] = row._replace(n_bytes=row.n_bytes + part * amount, busy_s=row.busy_s + lasted_s)
        return rows

    def _start(
        self,
        compiled: CompiledDemand,
        weight: float,
        began_at: float | None,
        planned_end: float | None,
        on_done: Callable[[Transfer], None] | None,
        owner: Watcher | None,
    ) -> Transfer:
        flows_s = (self.env.now if began_at is None else began_at) + compiled.latency_s
        transfer = Transfer(self.env, compiled, weight, flows_s, planned_end, on_done, owner)
        self._under_way[transfer] = None
        transfer.state = State.UNCONTENDED
        transfer.end_s = flows_s + compiled.flow_s if planned_end is None else planned_end
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
        if transfer.state is not State.UNCONTENDED:
            return  # aborted
        del self._under_way[transfer]
        self._counters.carry(transfer.demand.links, transfer.demand.n_bytes, 1.0, transfer.demand.flow_s)
        self._succeed(transfer)
