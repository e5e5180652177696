//! Packets of one sequence: the defaults that readers need with the first one, and strings by number.

use super::proto::{
    Annotation, Clock, ClockSnapshot, CounterDescriptor, Defaults, Interned, InternedData, MONOTONIC,
    NEEDS_STATE, Packet, STATE_CLEARED, Trace, TrackDescriptor, TrackEvent, Type,
};
use hashbrown::HashMap;
use prost::Message;
use std::io::{self, Write};

/// The id of the only sequence; 0 would be none.
const SEQUENCE: u32 = 1;

/// Interned strings in use. At this number all are forgotten, and the next packet tells readers to do the same.
const MAX_STRINGS: usize = 1 << 16;

/// Writes packets, and numbers tracks, flows and strings.
pub(super) struct Packets<W> {
    out: W,
    names: Names,
    annotations: Names,
    values: Names,
    /// Strings interned since the last packet, which go into the next one.
    fresh: InternedData,
    /// Whether the next packet clears what readers know (`STATE_CLEARED`).
    cleared: bool,
    uuids: u64,
    flows: u64,
}

/// Numbers of strings, from 1: 0 means none.
#[derive(Default)]
struct Names(HashMap<Box<str>, u64>);

impl Names {
    fn number(&mut self, text: &str, fresh: &mut Vec<Interned>) -> u64 {
        if let Some(iid) = self.0.get(text) {
            return *iid;
        }
        let iid = self.0.len() as u64 + 1;
        self.0.insert(text.into(), iid);
        fresh.push(Interned { iid: Some(iid), name: Some(text.to_owned()) });
        iid
    }
}

/// The value of an annotation.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Number(u64),
    Text(&'a str),
}

/// Name, annotations and arrows of an event.
#[derive(Default)]
pub(super) struct Said<'a> {
    /// Empty for the end of a slice, which has none.
    pub(super) name: &'a str,
    pub(super) values: Vec<(&'a str, Value<'a>)>,
    /// An arrow that begins here.
    pub(super) flow: Option<u64>,
    /// An arrow that ends here.
    pub(super) end_of_flow: Option<u64>,
}

impl<W: Write> Packets<W> {
    pub(super) fn new(out: W) -> Packets<W> {
        Packets {
            out,
            names: Names::default(),
            annotations: Names::default(),
            values: Names::default(),
            fresh: InternedData::default(),
            cleared: true,
            uuids: 0,
            flows: 0,
        }
    }

    /// Writes which clock the times are of: Perfetto's own default is `CLOCK_BOOTTIME`.
    pub(super) fn begin(&mut self, ts: u64) -> io::Result<()> {
        let clock = Clock { clock_id: Some(MONOTONIC), timestamp: Some(ts) };
        let snapshot = ClockSnapshot { clocks: vec![clock], primary_trace_clock: Some(MONOTONIC) };
        self.put(Packet { clock_snapshot: Some(snapshot), ..Packet::default() })
    }

    /// Writes a new track and returns its number.
    pub(super) fn track(&mut self, descriptor: TrackDescriptor) -> io::Result<u64> {
        self.uuids += 1;
        let descriptor = TrackDescriptor { uuid: Some(self.uuids), ..descriptor };
        self.put(Packet { track_descriptor: Some(descriptor), ..Packet::default() })?;
        Ok(self.uuids)
    }

    /// The number of a new arrow.
    pub(super) fn flow(&mut self) -> u64 {
        self.flows += 1;
        self.flows
    }

    /// Writes the new value of a counter track.
    pub(super) fn counter(&mut self, track: u64, ts: u64, value: u64) -> io::Result<()> {
        let event = TrackEvent {
            r#type: Some(Type::Counter as u32),
            track_uuid: Some(track),
            counter_value: Some(i64::try_from(value).unwrap_or(i64::MAX)),
            ..TrackEvent::default()
        };
        self.put(Packet { timestamp: Some(ts), track_event: Some(event), ..Packet::default() })
    }

    /// Writes an event of a track.
    pub(super) fn event(&mut self, track: u64, ts: u64, kind: Type, said: &Said<'_>) -> io::Result<()> {
        let name_iid =
            (!said.name.is_empty()).then(|| self.names.number(said.name, &mut self.fresh.event_names));
        let values = said.values.iter().map(|(name, value)| {
            let name_iid = Some(self.annotations.number(name, &mut self.fresh.debug_annotation_names));
            match value {
                Value::Number(number) => {
                    Annotation { name_iid, uint_value: Some(*number), string_value_iid: None }
                }
                Value::Text(text) => {
                    let iid = self.values.number(text, &mut self.fresh.debug_annotation_string_values);
                    Annotation { name_iid, uint_value: None, string_value_iid: Some(iid) }
                }
            }
        });
        let event = TrackEvent {
            debug_annotations: values.collect(),
            r#type: Some(kind as u32),
            name_iid,
            track_uuid: Some(track),
            counter_value: None,
            flow_ids: said.flow.into_iter().collect(),
            terminating_flow_ids: said.end_of_flow.into_iter().collect(),
        };
        self.put(Packet { timestamp: Some(ts), track_event: Some(event), ..Packet::default() })?;
        if self.names.0.len().max(self.values.0.len()) >= MAX_STRINGS {
            self.names.0.clear();
            self.annotations.0.clear();
            self.values.0.clear();
            self.cleared = true;
        }
        Ok(())
    }

    fn put(&mut self, packet: Packet) -> io::Result<()> {
        let cleared = std::mem::take(&mut self.cleared);
        let fresh = std::mem::take(&mut self.fresh);
        let packet = Packet {
            trusted_packet_sequence_id: Some(SEQUENCE),
            sequence_flags: Some(if cleared { STATE_CLEARED | NEEDS_STATE } else { NEEDS_STATE }),
            trace_packet_defaults: cleared.then_some(Defaults { timestamp_clock_id: Some(MONOTONIC) }),
            interned_data: (fresh != InternedData::default()).then_some(fresh),
            ..packet
        };
        // Concatenated `Trace` messages are one `Trace` with all packets, so each packet is written at once.
        self.out.write_all(&Trace { packet: vec![packet] }.encode_to_vec())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A named track below another one.
pub(super) fn named(parent: u64, name: &str) -> TrackDescriptor {
    TrackDescriptor { parent_uuid: Some(parent), name: Some(name.to_owned()), ..TrackDescriptor::default() }
}

/// A counter track.
pub(super) fn counted(parent: u64, name: &str, unit: &str) -> TrackDescriptor {
    TrackDescriptor {
        counter: Some(CounterDescriptor { unit_name: Some(unit.to_owned()) }),
        ..named(parent, name)
    }
}
