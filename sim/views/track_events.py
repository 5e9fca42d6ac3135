"""A file in Perfetto's native format, TrackEvent: tracks, slices, counters, marks and arrows, streamed out.

Names and categories are written once and numbered (interned), so that a slice takes some forty bytes. Times
are whole nanoseconds. The same calls leave the same bytes. The format:
https://perfetto.dev/docs/reference/synthetic-track-event
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    Value = int | float | str | Mapping[str, "Value"]

SEQUENCE = 1  # all packets are of one writer
FIRST, FOLLOWING = 1, 2  # SEQ_INCREMENTAL_STATE_CLEARED, SEQ_NEEDS_INCREMENTAL_STATE
BEGIN, END, INSTANT, COUNTER = 1, 2, 3, 4  # TrackEvent.Type
EXPLICIT = 3  # TrackDescriptor.ChildTracksOrdering: as they are numbered, not by name


class TrackEvents:
    """Writes events to a binary file. Tracks are numbers; those of one track come in the order of time."""

    def __init__(self, file: IO[bytes]) -> None:
        from perfetto.trace_builder.proto_builder import (  # type: ignore[import-untyped]
            StreamingTraceProtoBuilder,
        )

        self._builder = StreamingTraceProtoBuilder(file)
        self._tracks = 0
        self._processes = 0
        self._children: dict[int, int] = {}
        self._interned: dict[str, dict[str, int]] = {"names": {}, "categories": {}, "annotations": {}}
        self._begun = False

    # ---- tracks

    def process(self, name: str) -> int:
        """A group of tracks at the top level; processes are numbered from 1."""
        self._processes += 1
        packet, track = self._described()
        packet.track_descriptor.process.pid = self._processes
        packet.track_descriptor.process.process_name = name
        packet.track_descriptor.child_ordering = EXPLICIT
        self._write(packet)
        return track

    def track(self, parent: int, name: str, unit: str | None = None) -> int:
        """A track of slices, or, with a unit, a counter, below its older siblings."""
        packet, track = self._described()
        descriptor = packet.track_descriptor
        descriptor.parent_uuid = parent
        descriptor.name = name
        descriptor.child_ordering = EXPLICIT
        self._children[parent] = descriptor.sibling_order_rank = self._children.get(parent, 0) + 1
        if unit is not None:
            descriptor.counter.unit_name = unit
        self._write(packet)
        return track

    def _described(self) -> tuple[Any, int]:
        self._tracks += 1
        packet = self._packet()
        packet.track_descriptor.uuid = self._tracks
        return packet, self._tracks

    # ---- events

    def begin(
        self,
        track: int,
        at_s: float,
        name: str,
        category: str,
        values: Mapping[str, Value] | None = None,
        flows: Iterable[int] = (),
    ) -> None:
        """A slice begins; slices of one number in `flows` are joined by arrows."""
        packet, event = self._event(BEGIN, track, at_s)
        self._name(packet, event, name, category)
        for key, value in (values or {}).items():
            self._annotate(packet, event.debug_annotations.add(), key, value)
        event.flow_ids.extend(flows)
        self._write(packet)

    def end(self, track: int, at_s: float) -> None:
        """The innermost slice ends."""
        packet, _ = self._event(END, track, at_s)
        self._write(packet)

    def slice(
        self,
        track: int,
        begin_s: float,
        end_s: float,
        name: str,
        category: str,
        values: Mapping[str, Value] | None = None,
        flows: Iterable[int] = (),
    ) -> None:
        """A slice with none inside."""
        self.begin(track, begin_s, name, category, values, flows)
        self.end(track, end_s)

    def mark(self, track: int, at_s: float, name: str, category: str) -> None:
        """An instant."""
        packet, event = self._event(INSTANT, track, at_s)
        self._name(packet, event, name, category)
        self._write(packet)

    def count(self, track: int, at_s: float, value: int) -> None:
        """A counter has a value from here on."""
        packet, event = self._event(COUNTER, track, at_s)
        event.counter_value = value
        self._write(packet)

    # ---- packets

    def _packet(self) -> Any:
        packet = self._builder.create_packet()
        packet.trusted_packet_sequence_id = SEQUENCE
        packet.sequence_flags = FOLLOWING if self._begun else FIRST
        self._begun = True
        return packet

    def _event(self, kind: int, track: int, at_s: float) -> tuple[Any, Any]:
        packet = self._packet()
        packet.timestamp = nanoseconds(at_s)
        event = packet.track_event
        event.type = kind
        event.track_uuid = track
        return packet, event

    def _name(self, packet: Any, event: Any, name: str, category: str) -> None:
        event.name_iid = self._number("names", packet, name)
        event.category_iids.append(self._number("categories", packet, category))

    def _annotate(self, packet: Any, annotation: Any, key: str, value: Value) -> None:
        annotation.name_iid = self._number("annotations", packet, key)
        if isinstance(value, Mapping):
            for inner, one in value.items():
                self._annotate(packet, annotation.dict_entries.add(), inner, one)
        elif isinstance(value, str):
            annotation.string_value = value
        elif isinstance(value, int):
            annotation.int_value = value
        else:
            annotation.double_value = value

    def _number(self, kind: str, packet: Any, text: str) -> int:
        """The number of a text, which is written with the packet that first has it."""
        known = self._interned[kind]
        number = known.get(text)
        if number is None:
            number = known[text] = len(known) + 1
            data = packet.interned_data
            rows = {
                "names": data.event_names,
                "categories": data.event_categories,
                "annotations": data.debug_annotation_names,
            }[kind]
            rows.add(iid=number, name=text)
        return number

    def _write(self, packet: Any) -> None:
        self._builder.write_packet(packet)


class Lanes:
    """As many tracks of one name as slices overlap; a viewer draws them as one."""

    def __init__(self, out: TrackEvents, parent: int, name: str) -> None:
        self._out, self._parent, self._name = out, parent, name
        self._lanes: list[tuple[int, float]] = []

    def free(self, begin_s: float, end_s: float) -> int:
        """A track that is free from `begin_s` on, taken up to `end_s`."""
        for i, (track, until_s) in enumerate(self._lanes):
            if until_s <= begin_s:
                self._lanes[i] = track, end_s
                return track
        track = self._out.track(self._parent, self._name)
        self._lanes.append((track, end_s))
        return track


def nanoseconds(at_s: float) -> int:
    """An instant as the format has it.

    >>> nanoseconds(0.25)
    250000000
    """
    return round(at_s * 1e9)
