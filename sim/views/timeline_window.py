"""What was recorded of a run, op by op: tracks of GPUs, links and transfers, and the arrows between them.

A step is drawn on its replica, on each GPU of its stage with its layers and ops, and its collectives on the
links that carry them. The GPUs of a stage go through the same ops at the same instants, so each has them all.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sim.results.recorded import OUTSIDE, RecordedGpu, RecordedOp, RecordedStep, RecordedTransfer
from sim.views.track_events import Lanes

if TYPE_CHECKING:
    from sim.results.recorded import Recorded
    from sim.views.track_events import TrackEvents

MOST_SLICES = 600_000
"""Slices of ops on GPUs that are drawn, of all windows together; with the links under them some 55 MB. Where
there are more, one GPU of each stage stands for all, and then the first ops for those that follow.
"""
MOST_ON_LINKS = 400_000
"""Changes of a link's rate up to which every link has a track; of more, every kind of link."""
SHOWN_REQUESTS = 16  # by number, of those in a step

WAITS = {
    "host": "waiting for the host",
    "step gap": "waiting between steps",
    "wait for launch": "waiting for launches",
}
"""Ops in which a GPU does nothing, in words."""


class Window:
    """Draws what was `recorded` into `out`."""

    def __init__(self, out: TrackEvents, recorded: Recorded) -> None:
        self.out = out
        self.recorded = recorded
        self._flows = 0
        self._to_step: dict[int, list[int]] = defaultdict(list)  # arrows that end at a step, by its place
        self._from_request: dict[tuple[int, str], list[int]] = defaultdict(list)
        self._to_gpu: dict[int, int] = {}
        self._of_transfer: dict[int, list[int]] = defaultdict(list)  # arrows of a transfer, by its place
        self._join_requests()
        self._join_transfers()

    def _flow(self) -> int:
        self._flows += 1
        return self._flows

    def _join_requests(self) -> None:
        """Arrows from a request to the first step with its prompt and the first that decodes it; of requests
        that were asked for, to all their steps.
        """
        asked = self.recorded.windows.requests
        joined = set()
        for place, step in enumerate(self.recorded.steps):
            if step.stage:
                continue
            for phase, requests in (
                ("prefill", [number for number, _ in step.chunks]),
                ("decode", list(step.decodes)),
            ):
                for number in requests:
                    if (number, phase) in joined and (asked is None or number not in asked):
                        continue
                    joined.add((number, phase))
                    flow = self._flow()
                    self._from_request[number, phase].append(flow)
                    self._to_step[place].append(flow)

    def _join_transfers(self) -> None:
        """Arrows from the step that a transfer follows on to the transfer, and on to the first step behind it
        that has the same request: activations between stages, KV caches between replicas.
        """
        wanted = {one.requests[0] for one in self.recorded.transfers if one.requests}
        steps: dict[int, list[int]] = defaultdict(list)  # places, in the order of time
        for place, step in enumerate(self.recorded.steps):
            for request in wanted.intersection(step.requests):
                steps[request].append(place)
        for number, one in enumerate(self.recorded.transfers):
            mine = steps[one.requests[0]] if one.requests else []
            begins = [self.recorded.steps[place].begin_s for place in mine]
            before = [
                place
                for place in mine[: bisect_right(begins, one.begin_s)]
                if self.recorded.steps[place].replica == one.replica
            ]
            behind = mine[bisect_left(begins, one.end_s) :]
            for place in (*before[-1:], *behind[:1]):
                flow = self._flow()
                self._to_step[place].append(flow)
                self._of_transfer[number].append(flow)

    def arrows_from(self, request: int, phase: str) -> list[int]:
        """The arrows that begin at a phase of a request."""
        return self._from_request.get((request, phase), [])

    # ---- requests and replicas

    def causes_of(self, request: int, parent: int) -> None:
        """What a request's time was charged to, in the order in which it passed."""
        rows = self.recorded.causes.get(request)
        if not rows:
            return
        track = self.out.track(parent, f"request {request}: where its time went")
        for row in sorted(rows):
            if row.end_s <= row.begin_s:
                continue
            largest = max(row.seconds, key=lambda name: row.seconds[name], default="")
            words = largest.replace("_", " ")
            values: dict[str, Any] = {
                f"{name.replace('_', ' ')} (ms)": round(seconds * 1e3, 6)
                for name, seconds in row.seconds.items()
            }
            name = f"{row.steps} steps, most of it {words}" if row.steps else words
            self.out.slice(track, row.begin_s, row.end_s, name, "cause", values)

    def steps_of(self, replica: int, parent: int) -> None:
        """Every step of a replica by itself."""
        tracks: dict[int, int] = {}
        for place, step in enumerate(self.recorded.steps):
            if step.replica != replica:
                continue
            if step.stage not in tracks:
                tracks[step.stage] = self.out.track(parent, f"stage {step.stage}, step by step")
            self._to_gpu[place] = self._flow()
            flows = [*self._to_step.get(place, ()), self._to_gpu[place]]
            track = tracks[step.stage]
            self.out.slice(
                track, step.begin_s, step.end_s, _name(step), "user_annotation", _values(step), flows
            )

    # ---- the machine

    def machine(self) -> tuple[str, ...]:
        """GPUs, links and transfers, a process for each node; returns what is missing."""
        transfers = list(self.recorded.transfers)
        arrows = {place: tuple(flows) for place, flows in self._of_transfer.items()}
        by_stage: dict[tuple[int, int], list[RecordedGpu]] = {}
        for gpu in self.recorded.gpus:
            by_stage.setdefault((gpu.replica, gpu.stage), []).append(gpu)
        missing = []
        whole = sum(
            step.n_ops * len(by_stage.get((step.replica, step.stage), ())) for step in self.recorded.steps
        )
        if whole > MOST_SLICES:
            by_stage = {stage: gpus[:1] for stage, gpus in by_stage.items()}
            missing.append(
                f"one GPU of each stage is drawn, the others go through the same ops: all of them have "
                f"{whole:,} slices, more than {MOST_SLICES:,}"
            )
        drawn = {(step.replica, step.stage) for step in self.recorded.steps}
        nodes: dict[str, int] = {}
        tracks: dict[str, int] = {}
        shown = [gpu for gpus in by_stage.values() for gpu in gpus]
        for gpu in sorted(shown, key=lambda one: _natural(one.name)):
            if (gpu.replica, gpu.stage) in drawn:
                node = nodes.get(gpu.node)
                if node is None:
                    node = nodes[gpu.node] = self.out.process(gpu.node)
                words = f"replica {gpu.replica}, stage {gpu.stage}, rank {gpu.rank}"
                tracks[gpu.name] = self.out.track(node, f"{gpu.name.rpartition('.')[2]} ({words})")
        slices = 0
        for place, step in enumerate(self.recorded.steps):
            gpus = by_stage.get((step.replica, step.stage), [])
            slices += step.n_ops * max(1, len(gpus))
            if slices > MOST_SLICES:
                missing.append(
                    f"GPUs and links are drawn up to {step.begin_s:.6g} s, where the timeline has "
                    f"{MOST_SLICES:,} slices; ask for a narrower window to see what comes later"
                )
                break
            ops = list(step.ops())
            flows = {}
            for number, op in enumerate(ops):
                if op.transfer is not None and op.transfer.links:
                    flows[number] = self._flow()
                    arrows[len(transfers)] = (flows[number],)
                    transfers.append(op.transfer)
            for gpu in gpus:
                first = gpu.rank == 0
                self._ops(tracks[gpu.name], step, ops, flows if first else {}, self._to_gpu.get(place))
        missing += self._links(transfers, arrows, nodes)
        return tuple(missing)

    def _ops(
        self, track: int, step: RecordedStep, ops: list[RecordedOp], flows: dict[int, int], arrow: int | None
    ) -> None:
        """A step on one GPU: its layers, and in them kernels, collectives and waits."""
        out, layer, end_s = self.out, OUTSIDE, step.begin_s
        arrows = () if arrow is None else (arrow,)
        out.begin(track, step.begin_s, _name(step), "gpu_user_annotation", None, arrows)
        for i, op in enumerate(ops):
            if op.layer != layer:
                if layer != OUTSIDE:
                    out.end(track, end_s)
                layer = op.layer
                if layer != OUTSIDE:
                    out.begin(track, op.begin_s, f"layer {layer}", "gpu_user_annotation")
            end_s = op.end_s
            waits = WAITS.get(op.name)
            category = "kernel" if waits is None else "gpu_user_annotation"
            values = None if op.transfer is None else _sizes(op.transfer)
            flow = (flows[i],) if i in flows else ()
            out.slice(track, op.begin_s, op.end_s, waits or op.name, category, values, flow)
        if layer != OUTSIDE:
            out.end(track, end_s)
        out.end(track, step.end_s)

    def _links(
        self, transfers: list[RecordedTransfer], arrows: dict[int, tuple[int, ...]], nodes: dict[str, int]
    ) -> Iterator[str]:
        """Rates and transfers of each kind of link of each node, and of each link."""
        out, names = self.out, self.recorded.links
        groups = {
            link: _group(names[link], self.recorded.link_kinds) for one in transfers for link in one.links
        }
        order = sorted({*groups.values()}, key=lambda group: (_natural(group[0]), group[1]))
        members: dict[tuple[str, str], list[int]] = defaultdict(list)
        for link, group in groups.items():
            members[group].append(link)
        of_group: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
        of_link: dict[int, list[tuple[int, float]]] = defaultdict(list)
        changes = sum(2 * len(one.links) * len(one.shares) for one in transfers)
        for i in sorted(range(len(transfers)), key=lambda i: (transfers[i].begin_s, i)):
            amounts: dict[tuple[str, str], float] = defaultdict(float)
            for link, n_bytes in zip(transfers[i].links, transfers[i].n_bytes, strict=True):
                amounts[groups[link]] += n_bytes
                if changes <= MOST_ON_LINKS:
                    of_link[link].append((i, n_bytes))
            for group, n_bytes in amounts.items():
                of_group[group].append((i, n_bytes))
        for group in order:
            node, kind = group
            if node not in nodes:
                nodes[node] = out.process(node)
            rates = sorted({self.recorded.bytes_per_s[link] for link in members[group]})
            each = " to ".join(f"{rate / 1e9:.4g}" for rate in dict.fromkeys((rates[0], rates[-1])))
            whole = out.track(nodes[node], f"{kind}, {len(members[group])} links of {each} GB/s")
            self._rates(
                out.track(whole, f"{kind}: bytes/s, all links", "bytes/s"), transfers, of_group[group]
            )
            lanes = Lanes(out, whole, f"{kind}: transfers")
            for i, _ in of_group[group]:
                one = transfers[i]
                if one.end_s > one.begin_s:
                    self._transfer(lanes.free(one.begin_s, one.end_s), one, arrows.get(i, ()))
            for link in sorted(members[group], key=lambda one: _natural(names[one])):
                if link not in of_link:
                    continue
                track = out.track(whole, f"{names[link]}: bytes/s", "bytes/s")
                self._rates(track, transfers, of_link[link])
                own = Lanes(out, whole, f"{names[link]}: transfers")
                for i, _ in of_link[link]:
                    one = transfers[i]
                    if one.end_s > one.flows_s:
                        lane = own.free(one.flows_s, one.end_s)
                        out.slice(lane, one.flows_s, one.end_s, one.name, "transfer")
        if changes > MOST_ON_LINKS:
            yield (
                f"links are drawn by kind: their rates change {changes:,} times, more than "
                f"{MOST_ON_LINKS:,}; ask for a narrower window to see each"
            )

    def _transfer(self, track: int, one: RecordedTransfer, flows: tuple[int, ...]) -> None:
        values: dict[str, Any] = _sizes(one)
        if one.replica >= 0:
            values["replica"] = one.replica
        if one.requests:
            values["requests"] = _numbers(one.requests)
        self.out.slice(track, one.begin_s, one.end_s, one.name, "transfer", values, flows)

    def _rates(self, track: int, transfers: list[RecordedTransfer], amounts: list[tuple[int, float]]) -> None:
        """Bytes/s of these transfers together, each with the bytes that it puts here."""
        changes: dict[float, float] = defaultdict(float)
        for i, n_bytes in amounts:
            one, before = transfers[i], 0.0
            for since_s, share in one.shares:
                if since_s < one.end_s:
                    changes[since_s] += n_bytes * share - before
                    before = n_bytes * share
            changes[one.end_s] -= before
        rate, shown = 0.0, 0
        for at_s in sorted(changes):
            rate += changes[at_s]
            if round(rate) != shown:
                shown = round(rate)
                self.out.count(track, at_s, shown)


def step_name(prompt_tokens: int, decode_tokens: int) -> str:
    """What a step computes.

    >>> step_name(300, 12), step_name(0, 0)
    ('prefill 300 + decode 12', 'step')
    """
    work = {"prefill": prompt_tokens, "decode": decode_tokens}
    return " + ".join(f"{what} {tokens}" for what, tokens in work.items() if tokens) or "step"


def _name(step: RecordedStep) -> str:
    return step_name(sum(tokens for _, tokens in step.chunks), len(step.decodes))


def _values(step: RecordedStep) -> dict[str, Any]:
    values: dict[str, Any] = {"kv_tokens": step.kv_tokens, "requests": _numbers(step.requests)}
    return values if step.is_whole else {**values, "cut off": "the replica failed, or the run ended"}


def _numbers(requests: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, requests[:SHOWN_REQUESTS]))
    more = len(requests) - SHOWN_REQUESTS
    return f"{shown} and {more} more" if more > 0 else shown


def _sizes(one: RecordedTransfer) -> dict[str, Any]:
    """What a transfer is: its bytes on all links and on its busiest one, and how long it waited to flow."""
    return {
        "bytes on the busiest link": round(max(one.n_bytes, default=0.0)),
        "links": len(one.links),
        "latency_us": (one.flows_s - one.begin_s) * 1e6,
    }


def _group(link: str, kinds: Any) -> tuple[str, str]:
    """The node that a link is of, or the network between nodes; and its kind."""
    ends = [end.split(".")[0] for end in link.split("->")]
    nodes = [end for end in ends if end.startswith("node")]
    return (nodes[0] if nodes else "network"), kinds.get(link, "links")


def _natural(name: str) -> list[Any]:
    """Sorts `gpu10` behind `gpu9`."""
    import re

    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]
