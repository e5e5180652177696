//! The same profile in each form.

use super::*;
use crate::output::pprof::proto::Profile;
use flate2::read::GzDecoder;
use prost::Message as _;
use std::io::Read as _;

#[test]
fn pprof_has_what_go_s_block_profile_has() {
    let bytes = written(Form::Pprof, wanted(Kind::Blocked), &waits()).bytes();
    let mut raw = Vec::new();
    GzDecoder::new(&bytes[..]).read_to_end(&mut raw).unwrap();
    let profile = Profile::decode(&raw[..]).unwrap();
    let string = |index: i64| profile.string_table[index as usize].as_str();
    let values: Vec<_> =
        profile.sample_type.iter().map(|value| (string(value.r#type), string(value.unit))).collect();
    assert_eq!(values, [("contentions", "count"), ("delay", "nanoseconds")]);
    assert_eq!((profile.time_nanos, profile.duration_nanos, profile.period), (5, 1000, 1));
    let comments: Vec<&str> = profile.comment.iter().map(|text| string(*text)).collect();
    assert_eq!(
        comments[1..],
        ["1 had not ended: counted with their time up to the end of the trace, label open:true"]
    );
    let samples: Vec<String> = profile
        .sample
        .iter()
        .map(|sample| {
            let lines = |id: &u64| &profile.location[*id as usize - 1].line;
            let functions = sample.location_id.iter().flat_map(lines);
            let functions: Vec<&str> =
                functions.map(|line| string(profile.function[line.function_id as usize - 1].name)).collect();
            let labels =
                sample.label.iter().map(|label| format!("{}:{}", string(label.key), string(label.str)));
            let labels: Vec<String> = labels.collect();
            format!("{:?} {} [{}]", sample.value, functions.join(" "), labels.join(" "))
        })
        .collect();
    assert_eq!(
        samples,
        [
            "[1, 790] sync.(*Mutex).Lock main.(*store[go.shape.struct { A int; B int }]).get main.worker \
             [reason:sync.Mutex.Lock open:true]",
            "[2, 150] main.receive main.inlined main.outer main.worker [reason:chan receive]",
        ]
    );
    // Inlined functions share the location of the one that they are part of.
    assert_eq!(profile.location.iter().map(|location| location.line.len()).max(), Some(2));
    assert_eq!(string(profile.mapping[0].filename), "/srv/shop <1>");
}

#[test]
fn a_flame_graph_shows_shares() {
    let svg = written(Form::Flamegraph, wanted(Kind::Blocked), &waits()).text();
    assert!(svg.contains("Time blocked by stack: shop &lt;1&gt;, PID 7"), "{svg}");
    let titles: Vec<&str> = svg
        .split("<title>")
        .skip(1)
        .filter_map(|rest| rest.split_once("</title>").map(|(title, _)| title))
        .collect();
    assert!(titles.contains(&"all (940 ns, 100%)"), "{titles:?}");
    for (name, value, share) in [
        ("main.worker", 940, "100.00"),
        ("main.receive", 150, "15.96"),
        ("main.(*store[go.shape.struct { A int, B int }]).get", 790, "84.04"),
    ] {
        let title = format!("{name} ({value} ns, {share}%)");
        assert!(titles.contains(&&*title), "{title}: {titles:?}");
    }
}

/// What its reader would take for a comment, or for one more number.
#[test]
fn a_flame_graph_has_every_stack() {
    for name in ["# main", "# ", "main 5", "main 5.5", " 5", "main", "\u{1}"] {
        let mut targets = [target(7)];
        let site = Site { func: name.into(), file: "".into(), line: 1 };
        targets[0].symbols().tell_frames(20, [site].into());
        let svg = one_wait(&mut targets, Form::Flamegraph);
        assert!(svg.contains(" (980 ns, 100.00%)"), "{name:?}: {svg}");
    }
}

#[test]
fn nothing_is_a_profile_too() {
    for form in [Form::Pprof, Form::Flamegraph, Form::Folded] {
        for kind in [Kind::Blocked, Kind::OffCpu, Kind::Created, Kind::Goroutines] {
            let bytes = written(form, wanted(kind), &[]).bytes();
            assert_eq!(bytes.is_empty(), form == Form::Folded);
        }
    }
}

/// Whatever a hostile target calls its functions.
#[test]
fn names_cannot_break_the_formats() {
    let mut targets = [target(7)];
    let name = "a<b>&\"'\n;\0]]></script>\u{fffe}";
    let site = Site { func: name.into(), file: name.into(), line: 1 };
    targets[0].symbols().tell_frames(20, [site].into());
    for (form, good) in [
        (Form::Folded, "a<b>&\"' ,\0]]></script>\u{fffe} 980\n"),
        (Form::Flamegraph, "<title>a&lt;b&gt;&amp;&quot;&apos; ,\u{fffd}]]&gt;&lt;/script&gt;\u{fffd} ("),
    ] {
        let text = one_wait(&mut targets, form);
        assert!(text.contains(good), "{text}");
    }
}

/// A goroutine that waits at the address 20, from 20 ns to the end at 1000 ns.
fn one_wait(targets: &mut [Target], form: Form) -> String {
    let mut round = Round::default();
    round.clear(1);
    let input = events(vec![run(10, 2), block(20, 2, RECEIVE, &[20])]);
    targets[0].take(&input, &mut round.news[0]);
    let out = Written::default();
    let mut stacks = Stacks::new(out.clone(), form, wanted(Kind::Blocked), 0);
    stacks.begin(targets).unwrap();
    stacks.round(targets, &round).unwrap();
    stacks.end(targets, &[End { until_ts: 1000, ..End::default() }]).unwrap();
    out.text()
}
