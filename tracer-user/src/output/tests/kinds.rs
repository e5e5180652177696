//! What each kind of profile counts, and at which place.

use super::*;
use sfgi_core::session::WholeStack;

#[test]
fn waits_count_by_stack_and_those_that_go_on_up_to_the_end() {
    assert_eq!(
        folded(wanted(Kind::Blocked), &waits()),
        "main.worker;main.(*store[go.shape.struct { A int, B int }]).get;sync.(*Mutex).Lock 790\n\
         main.worker;main.outer;main.inlined;main.receive 150\n"
    );
}

#[test]
fn a_span_cuts_waits() {
    let span = Span { from_ts: 250, to_ts: 420 };
    assert_eq!(
        folded(Wanted { span, ..wanted(Kind::Blocked) }, &waits()),
        "main.worker;main.(*store[go.shape.struct { A int, B int }]).get;sync.(*Mutex).Lock 170\n\
         main.worker;main.outer;main.inlined;main.receive 70\n"
    );
}

#[test]
fn a_reason_the_runtime_s_own_and_the_creator_can_be_asked_for() {
    let reason = Some(regex::Regex::new("^chan").unwrap());
    let by_creator = Wanted { reason, by_creator: true, ..wanted(Kind::Blocked) };
    assert_eq!(
        folded(by_creator, &waits()),
        "main.main;main.worker;main.outer;main.inlined;main.receive 150\n"
    );
    let system = Wanted { system: true, ..wanted(Kind::Blocked) };
    assert!(folded(system, &waits()).starts_with("runtime.gcBgMarkWorker;runtime.gopark 850\n"));
}

#[test]
fn a_wait_from_before_the_trace_has_its_whole_stack() {
    let seen = Seen {
        g: 0x5000,
        goid: 5,
        state: State::Waiting,
        reason: RECEIVE,
        since_ts: 20,
        tid: 0,
        birth: Birth { parent_goid: 1, gopc: 41, startpc: 80, funcval: 0 },
        site: stack(&[10, 20]),
    };
    let snapshot = SnapshotInput { seen: vec![seen], began_ts: 100, ended_ts: 110, complete: true };
    let whole = WholeStack { goid: 5, since_ts: None, read_ts: 105, pcs: [10, 20, 30, 80].into() };
    let before = [Input::Snapshot(snapshot), Input::Stacks(vec![whole]), events(vec![run(120, 9)])];
    let still = folded(Wanted { span: Span { from_ts: 90, to_ts: 1000 }, ..wanted(Kind::Blocked) }, &before);
    assert_eq!(still, "main.worker;main.outer;main.inlined;main.receive 910\n");

    let woken = [&before[..], &[events(vec![wake(500, 5)])]].concat();
    let over = folded(Wanted { span: Span { from_ts: 90, to_ts: 1000 }, ..wanted(Kind::Blocked) }, &woken);
    assert_eq!(over, "main.worker;main.outer;main.inlined;main.receive 410\n");
}

#[test]
fn a_stack_at_the_limit_of_the_probes_says_so() {
    let deep = [20; 12];
    let mut inputs = vec![events(vec![create(100, 2, 40, 80), run(110, 2), block(200, 2, RECEIVE, &deep)])];
    inputs.push(events(vec![wake(300, 2)]));
    let all = "main.receive;".repeat(12);
    assert_eq!(
        folded(wanted(Kind::Blocked), &inputs),
        format!("main.worker;[deeper frames not recorded];{} 100\n", all.trim_end_matches(';'))
    );
    let mut whole = [20; 12];
    whole[11] = 80;
    inputs[0] = events(vec![create(100, 2, 40, 80), run(110, 2), block(200, 2, RECEIVE, &whole)]);
    assert!(folded(wanted(Kind::Blocked), &inputs).starts_with("main.worker;main.receive;"));
}

#[test]
fn a_thread_without_a_cpu_counts_where_its_goroutine_last_waited() {
    let mut inputs = waits();
    let off =
        vec![cpu(500, 2, Probe::ThreadOff), cpu(540, 2, Probe::ThreadOn), cpu(600, 2, Probe::ThreadOff)];
    inputs.push(events(off));
    let stack = "main.worker;main.outer;main.inlined;main.receive";
    assert_eq!(folded(wanted(Kind::OffCpu), &inputs), format!("{stack} 440\n"));

    // Whether it got a CPU meanwhile is not known.
    inputs.push(Input::Events(Batch { lost: 1, doubt_until: 650, complete_until: 650, ..Batch::default() }));
    assert_eq!(folded(wanted(Kind::OffCpu), &inputs), format!("{stack} 40\n"));
}

#[test]
fn goroutines_count_where_they_were_made_and_where_they_are() {
    assert_eq!(folded(wanted(Kind::Created), &waits()), "main.main 2\n");
    assert_eq!(
        folded(wanted(Kind::Goroutines), &waits()),
        "main.worker;[running] 1\n\
         main.worker;main.(*store[go.shape.struct { A int, B int }]).get;sync.(*Mutex).Lock 1\n"
    );
}

#[test]
fn a_profile_is_of_one_process() {
    let mut two = [target(7), target(8)];
    let begin = |pid, targets: &mut [Target]| {
        let wanted = Wanted { pid, ..wanted(Kind::Blocked) };
        Stacks::new(Written::default(), Form::Folded, wanted, 0).begin(targets).map_err(|err| err.to_string())
    };
    assert_eq!(
        begin(None, &mut two),
        Err("this format holds one process: choose one of 7, 8 by --pid".into())
    );
    assert_eq!(begin(Some(9), &mut two), Err("nothing is known of PID 9; there are: 7, 8".into()));
    assert_eq!(begin(Some(8), &mut two), Ok(()));
}
