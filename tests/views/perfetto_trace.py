"""A timeline read back with the format's own protobuf: its tracks with their slices, counters and marks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Slice:
    """A slice; `depth` others are around it."""

    track: str
    name: str
    category: str
    begin_ns: int
    end_ns: int = -1
    depth: int = 0
    values: dict[str, Any] = field(default_factory=dict)
    flows: tuple[int, ...] = ()


@dataclass
class Read:
    """`slices`, `counters` (time and value) and `marks` by the path of their track; `pids` by process."""

    slices: dict[str, list[Slice]] = field(default_factory=dict)
    counters: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    marks: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)

    def all(self, within: str = "") -> list[Slice]:
        return [one for track, slices in self.slices.items() if within in track for one in slices]


def read(path: Path) -> Read:
    """Read a timeline; AssertionError where a slice ends that has not begun, is left open, or time goes back
    within a track.
    """
    from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace

    trace = Trace()
    trace.ParseFromString(path.read_bytes())
    found = Read()
    paths: dict[int, str] = {}
    names: dict[str, dict[int, str]] = {"names": {}, "categories": {}, "annotations": {}}
    open_slices: dict[int, list[Slice]] = {}
    last_ns: dict[int, int] = {}

    def value(one: Any) -> Any:
        if one.dict_entries:
            return {names["annotations"][inner.name_iid]: value(inner) for inner in one.dict_entries}
        return getattr(one, one.WhichOneof("value"))

    for packet in trace.packet:
        if packet.HasField("track_descriptor"):
            one = packet.track_descriptor
            if one.HasField("process"):
                found.pids[one.process.process_name] = one.process.pid
                paths[one.uuid] = one.process.process_name
            else:
                paths[one.uuid] = f"{paths[one.parent_uuid]}/{one.name}"
            continue
        for kind, rows in (
            ("names", packet.interned_data.event_names),
            ("categories", packet.interned_data.event_categories),
            ("annotations", packet.interned_data.debug_annotation_names),
        ):
            names[kind].update((row.iid, row.name) for row in rows)
        event, track = packet.track_event, paths[packet.track_event.track_uuid]
        at_ns, uuid = packet.timestamp, packet.track_event.track_uuid
        if event.type in (event.TYPE_SLICE_BEGIN, event.TYPE_SLICE_END):
            assert at_ns >= last_ns.get(uuid, 0), f"time goes back on {track}"
            last_ns[uuid] = at_ns
        around = open_slices.setdefault(uuid, [])
        if event.type == event.TYPE_SLICE_BEGIN:
            begun = Slice(
                track,
                names["names"][event.name_iid],
                names["categories"][event.category_iids[0]],
                at_ns,
                depth=len(around),
                values={names["annotations"][one.name_iid]: value(one) for one in event.debug_annotations},
                flows=tuple(event.flow_ids),
            )
            around.append(begun)
            found.slices.setdefault(track, []).append(begun)
        elif event.type == event.TYPE_SLICE_END:
            assert around, f"a slice ends on {track} that has not begun"
            around.pop().end_ns = at_ns
        elif event.type == event.TYPE_COUNTER:
            found.counters.setdefault(track, []).append((at_ns, event.counter_value))
        else:
            found.marks.setdefault(track, []).append((at_ns, names["names"][event.name_iid]))
    left = [one for around in open_slices.values() for one in around]
    assert not left, f"{left[:3]} are left open"
    return found
