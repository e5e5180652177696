"""Reads a Perfetto trace by Perfetto's own published messages, and prints its events, a JSON object a line.

Fails if a message has a field that is not published, an event a track or a name that was not told, a slice an end
without a beginning, or an arrow only one end.
"""

import json
import sys

from google.protobuf.unknown_fields import UnknownFieldSet
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

MONOTONIC = 3


def check_known(message):
    assert len(UnknownFieldSet(message)) == 0, f"not published: {message}"
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in [value] if hasattr(value, "ListFields") else value:
                check_known(each)


trace = Trace()
with open(sys.argv[1], "rb") as file:
    trace.ParseFromString(file.read())
check_known(trace)

tracks, names, keys, texts = {}, {}, {}, {}
clock, events = None, []
for packet in trace.packet:
    if packet.sequence_flags & 1:
        names, keys, texts, clock = {}, {}, {}, None
    if packet.HasField("trace_packet_defaults"):
        clock = packet.trace_packet_defaults.timestamp_clock_id
    interned = packet.interned_data
    names.update((name.iid, name.name) for name in interned.event_names)
    keys.update((name.iid, name.name) for name in interned.debug_annotation_names)
    texts.update((text.iid, text.str.decode()) for text in interned.debug_annotation_string_values)
    if packet.HasField("track_descriptor"):
        tracks[packet.track_descriptor.uuid] = packet.track_descriptor
    if packet.HasField("track_event"):
        assert clock == MONOTONIC, "no clock"
        event = packet.track_event
        track = tracks[event.track_uuid]
        assert not track.parent_uuid or track.parent_uuid in tracks, f"an orphan: {track}"
        values = {
            keys[value.name_iid]: texts[value.string_value_iid] if value.string_value_iid else value.uint_value
            for value in event.debug_annotations
        }
        events.append({
            "ts_ns": packet.timestamp,
            "type": TrackEvent.Type.Name(event.type),
            "track": track.thread.thread_name or track.name or track.process.process_name,
            "uuid": event.track_uuid,
            "name": names[event.name_iid] if event.name_iid else "",
            "values": values,
            "out": list(event.flow_ids),
            "in": list(event.terminating_flow_ids),
        })

# Readers sort by time; what has the same time stays in its order.
events.sort(key=lambda event: event["ts_ns"])
open_slices, arrows = {}, [set(), set()]
for event in events:
    depth = open_slices.get(event["uuid"], 0)
    depth += {"TYPE_SLICE_BEGIN": 1, "TYPE_SLICE_END": -1}.get(event["type"], 0)
    assert 0 <= depth <= 1, f"slices do not follow each other: {event}"
    open_slices[event["uuid"]] = depth
    arrows[0].update(event["out"])
    arrows[1].update(event["in"])
    print(json.dumps(event))
assert arrows[0] == arrows[1], "an arrow has one end"
