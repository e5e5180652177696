//! Events as CSV.

use super::*;
use crate::output::Printer;
use sfgi_core::{
    model::{What, Whats},
    names::Filter,
};

#[test]
fn each_event_is_a_row() {
    let out = Written::default();
    let filter = Filter { events: Whats::ALL, goids: Vec::new(), func: None, min_ns: 0, stacks_ns: None };
    let mut inputs = waits();
    inputs.push(Input::Events(Batch { lost: 3, doubt_until: 650, complete_until: 650, ..Batch::default() }));
    play(&mut Printer::new(Box::new(Csv::new(out.clone())), filter, false), &inputs).unwrap();
    let text = out.text();
    let rows: Vec<&str> = text.split_terminator("\r\n").collect();
    assert_eq!(rows.len(), 1 + 14 + 1, "{text}");
    assert!(rows[0].starts_with("ts_ns,pid,goid,event,tid,reason,from,to,by_goid,duration_ns,measure,func,"));
    assert_eq!(rows[1], "100,7,2,create,2,,dead,runnable,1,,,main.main,/src/main.go,40,main.worker,,,,,");
    assert_eq!(
        rows[10],
        "300,7,2,unblock,2,chan receive,waiting,runnable,1,100,,main.receive,/src/main.go,20,main.worker,,,,,"
    );
    assert_eq!(rows[15], "650,7,,lost,,,,,,,,,,,,,,,,3");
    let fields = |row: &&str| row.matches(',').count();
    assert!(rows.iter().all(|row| fields(row) == fields(&rows[0])), "{text}");
}

#[test]
fn fields_are_quoted_where_they_must() {
    let mut targets = [target(7)];
    let site = Site { func: "f[a,\"b\"]".into(), file: "two\nlines".into(), line: 1 };
    targets[0].symbols().tell_frames(20, [site].into());
    let mut round = Round::default();
    round.clear(1);
    targets[0].take(&events(vec![run(10, 2), block(20, 2, RECEIVE, &[20])]), &mut round.news[0]);
    let out = Written::default();
    let filter = Filter {
        events: Whats::from_iter([What::Block]),
        goids: Vec::new(),
        func: None,
        min_ns: 0,
        stacks_ns: None,
    };
    let mut printer = Printer::new(Box::new(Csv::new(out.clone())), filter, false);
    printer.begin(&mut targets).unwrap();
    printer.round(&mut targets, &round).unwrap();
    assert!(out.text().contains(",\"f[a,\"\"b\"\"]\",\"two\nlines\",1,"), "{}", out.text());
}
