//! Traces of made-up timelines. The live tests show that the messages fit the published schema.

use super::{
    Perfetto,
    proto::{Trace, Type},
};
use crate::output::tests::timeline::tell;
use prost::Message as _;
use std::collections::BTreeMap;

/// A line an event, by time: `10 G7 main.work + waiting: chan receive`. `+` begins a slice, `-` ends one, `!` is an
/// instant; arrows by their number, values in brackets.
fn lines(trace: &[u8]) -> Vec<String> {
    let (mut tracks, mut names) = (BTreeMap::new(), BTreeMap::new());
    let mut lines = Vec::new();
    for packet in Trace::decode(trace).unwrap().packet {
        for name in packet.interned_data.into_iter().flat_map(|data| data.event_names) {
            assert_eq!(names.insert(name.iid, name.name.unwrap()), None);
        }
        if let Some(track) = packet.track_descriptor {
            let thread = track.thread.and_then(|thread| thread.thread_name);
            let name = thread.or(track.name).or(track.process.and_then(|process| process.process_name));
            tracks.insert(track.uuid, name.unwrap());
        }
        let Some(event) = packet.track_event else { continue };
        let ts = packet.timestamp.unwrap();
        let mark = match event.r#type.unwrap() {
            kind if kind == Type::SliceBegin as u32 => "+",
            kind if kind == Type::SliceEnd as u32 => "-",
            kind if kind == Type::Instant as u32 => "!",
            _ => "=",
        };
        let name = event.name_iid.map_or("", |_| &names[&event.name_iid]);
        let mut line = format!("{ts} {} {mark} {name}", tracks[&event.track_uuid]);
        line.extend(event.counter_value.map(|value| value.to_string()));
        line.extend(event.flow_ids.iter().map(|flow| format!(" →{flow}")));
        line.extend(event.terminating_flow_ids.iter().map(|flow| format!(" {flow}→")));
        lines.push((ts, line.trim_end().to_owned()));
    }
    lines.sort_by_key(|(ts, _)| *ts);
    lines.into_iter().map(|(_, line)| line).collect()
}

#[track_caller]
fn timeline(steps: &str, expected: &[&str]) {
    let mut trace = Vec::new();
    tell(&mut Perfetto::new(&mut trace, None), steps);
    let lines = lines(&trace);
    let shown: Vec<&String> = lines.iter().filter(|line| !line.contains(" = ")).collect();
    assert_eq!(shown, expected);
}

#[test]
fn goroutines_and_threads_are_tracks_and_who_wakes_is_an_arrow() {
    timeline(
        "100 m1 g1 found>running
         110 m1 g7 dead>runnable by g1
         120 m1 g1 running>waiting chan receive
         130 m2 g7 runnable>running
         140 m2 g1 waiting>runnable by g7
         150 m2 g7 running>dead",
        &[
            "100 G1 + running",
            "100 M 1 + G1",
            "110 G1 ! go →1",
            "110 G7 main.work + runnable 1→",
            "120 G1 -",
            "120 G1 + waiting: chan receive",
            "120 M 1 -",
            "130 G7 main.work -",
            "130 G7 main.work + running",
            "130 M 2 + G7 main.work",
            "140 G7 main.work ! wakes →2",
            "140 G1 -",
            "140 G1 + runnable 2→",
            "150 G7 main.work -",
            "150 M 2 -",
        ],
    );
}

#[test]
fn a_goroutine_stays_on_its_thread_in_a_system_call_and_loses_its_cpu() {
    timeline(
        "100 m1 g1 runnable>running
         110 m1 g1 running>syscall
         120 m1 g0 off
         130 m1 g0 on
         140 m1 g1 syscall>runnable",
        &[
            "100 G1 + running",
            "100 M 1 + G1",
            "110 G1 -",
            "110 G1 + syscall",
            "120 CPU + off CPU",
            "130 CPU -",
            "140 G1 -",
            "140 G1 + runnable",
            "140 M 1 -",
        ],
    );
}

#[test]
fn a_loss_is_told_and_time_never_goes_back_on_a_track() {
    timeline(
        "100 m1 g1 runnable>running
         -- lost 3
         90 m1 g1 running>waiting IO wait",
        &[
            "100 G1 + running",
            "100 M 1 + G1",
            "100 made-up ! events lost",
            "100 G1 -",
            "100 G1 + waiting: IO wait",
            "100 M 1 -",
        ],
    );
}

#[test]
fn goroutines_are_counted_by_state() {
    let mut trace = Vec::new();
    let steps = "100 m1 g1 runnable>running
                 200 m1 g2 dead>runnable
                 2000000 m1 g1 running>waiting IO wait";
    tell(&mut Perfetto::new(&mut trace, None), steps);
    let lines = lines(&trace);
    let counters: Vec<&str> = lines.iter().filter(|line| line.contains(" = ")).map(String::as_str).collect();
    assert_eq!(counters, ["2000000 goroutines runnable = 1", "2000000 goroutines waiting = 1"]);
}
