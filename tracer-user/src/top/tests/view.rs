//! Screens, held against snapshots.

use super::*;
use ratatui::{buffer::Buffer, layout::Rect, style::Color};
use sfgi_core::{detect::Verdict, leaks::LeakView, names::Site, testing::leak};
use std::sync::Arc;

fn lines(picture: &Picture, screen: &Screen, (width, height): (u16, u16)) -> String {
    text(picture, screen, &Look::default(), width, height)
}

#[test]
fn eighty_by_twenty_four() {
    let mut world = shop();
    for (by, name) in By::ALL.into_iter().zip(["wait", "creation", "state", "goroutine"]) {
        let picture = world.picture(&Query::usual());
        insta::assert_snapshot!(format!("80x24-{name}"), lines(&picture, &Screen::new(by), (80, 24)));
    }
}

#[test]
fn wider_screens_show_more() {
    let mut world = shop();
    let picture = world.picture(&Query::usual());
    for by in [By::Wait, By::Creation] {
        let name = format!("140x14-{}", by.name().replace(' ', "-"));
        insta::assert_snapshot!(name, lines(&picture, &Screen::new(by), (140, 14)));
    }
}

#[test]
fn several_processes() {
    let mut world = World::new(&[17, 4711], Source::Probes { threads: true });
    for target in 0..2 {
        world.round(
            target,
            &format!(
                "10 m1 g7 casgstatus 6>1 {SERVE}
                 20 m2 g7 casgstatus 1>2
                 100 m2 g7 casgstatus 2>4 chan receive pc=101,103"
            ),
            1001,
        );
    }
    world.tick(1001);
    let picture = world.picture(&Query::usual());
    insta::assert_snapshot!("120x10-two-processes", lines(&picture, &Screen::new(By::Wait), (120, 10)));
}

#[test]
fn panes() {
    let mut world = shop();
    world.round(0, "1100 m3 g9 exitsyscall\n1101 m1 g9 casgstatus 1>4", 1200);
    world.tick(1200);
    let picture = world.picture(&Query { detail: Some((0, 7)), ..Query::usual() });
    let mut screen = Screen::new(By::Goroutine);
    for (pane, name) in [(Pane::Detail, "detail"), (Pane::Findings, "findings"), (Pane::Help, "help")] {
        screen.pane = pane;
        insta::assert_snapshot!(format!("80x24-{name}"), lines(&picture, &screen, (80, 24)));
    }
    screen.pane = Pane::Leaks;
    let title = "sends to a channel that nobody receives from any more";
    let fix = "give the channel room for every answer, or receive all of them";
    let group = LeakView {
        verdict: Verdict::Proven,
        count: 12,
        wait_site: Some(Site { func: "main.askSupplier".into(), file: "".into(), line: 0 }),
        goids: vec![18, 19],
        evidence: vec!["no live goroutine, variable or timer leads to the channel".to_owned()],
        ..leak("chan-send-forgotten", title, fix)
    };
    let leaks = LeakSearch::Found("found: 12 proven in 1 group".to_owned(), Arc::new([group]));
    let look = Look { leaks, ..Look::default() };
    insta::assert_snapshot!("80x24-leaks", text(&picture, &screen, &look, 80, 24));
}

#[test]
fn nothing_to_show() {
    let picture = World::one().picture(&Query::usual());
    insta::assert_snapshot!("80x8-empty", lines(&picture, &Screen::new(By::Wait), (80, 8)));
}

#[test]
fn what_there_is_no_room_for_is_counted() {
    let mut world = World::one();
    let events: Vec<String> =
        (1..=30).map(|goid| format!("{goid} m1 g{goid} casgstatus 6>1 {SERVE}")).collect();
    world.round(0, &events.join("\n"), 1000);
    world.tick(1000);
    let picture = world.picture(&Query::usual());
    let mut screen = Screen::new(By::Goroutine);
    assert!(
        lines(&picture, &screen, (80, 16)).contains("… and 21 more"),
        "{}",
        lines(&picture, &screen, (80, 16))
    );
    screen.key(ratatui::crossterm::event::KeyCode::End.into(), Some(&picture), 16);
    let last = lines(&picture, &screen, (80, 16));
    assert!(last.contains(">       30") && !last.contains("more"), "{last}");
}

#[test]
fn colours_tell_nothing_that_is_not_told_without() {
    let mut world = shop();
    let picture = world.picture(&Query::usual());
    let mut drawn = [true, false].map(|colour| {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 80, 24));
        let look = Look { colour, notice: Some("a sentence".to_owned()), ..Look::default() };
        draw(&mut buffer, Some(&picture), &Screen::new(By::Wait), &look);
        buffer
    });
    let coloured = |buffer: &Buffer| {
        buffer.content.iter().any(|cell| (cell.fg, cell.bg) != (Color::Reset, Color::Reset))
    };
    assert_eq!([coloured(&drawn[0]), coloured(&drawn[1])], [true, false]);
    for cell in &mut drawn[0].content {
        (cell.fg, cell.bg) = (Color::Reset, Color::Reset);
    }
    assert_eq!(drawn[0], drawn[1]);
}

#[test]
fn names_cannot_reach_the_terminal_nor_leave_their_column() {
    let hostile = || {
        let mut symbols = super::symbols();
        let long = format!("main.{}", "x".repeat(5000));
        let names = [
            "main.\x1b[2J\x07\r\nroot",
            "main.関数の名前は長い長い長い長い長い長い長い",
            "main.\u{202e}gnp.exe\u{200b}",
            &long,
        ];
        for (at, name) in (0u64..).zip(names) {
            symbols.tell_frames(500 + 10 * at, site(name, "/a/\x1b]0;owned\x07.go", 7));
        }
        symbols
    };
    let mut world = World::with(&[1], Source::Probes { threads: true }, hostile);
    let events = (0..4).map(|at| {
        let goid = at + 7;
        format!(
            "10 m1 g{goid} casgstatus 6>1 pc={0},{0}\n20 m1 g{goid} casgstatus 1>2\n30 m1 g{goid} casgstatus 2>4 select pc={1}",
            500 + 10 * at,
            501 + 10 * at
        )
    });
    world.round(0, &events.collect::<Vec<_>>().join("\n"), 1000);
    world.tick(1000);
    for by in By::ALL {
        let picture = world.picture(&Query { detail: Some((0, 7)), ..Query::usual() });
        for pane in [Pane::Table, Pane::Detail] {
            let mut screen = Screen::new(by);
            screen.pane = pane;
            let text = lines(&picture, &screen, (80, 30));
            let bad = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{200b}".contains(c);
            assert!(!text.contains(bad), "{text:?}");
            for line in text.lines() {
                assert!(ratatui::text::Span::raw(line).width() <= 80, "{line}");
            }
        }
    }
    let picture = world.picture(&Query::usual());
    insta::assert_snapshot!("80x12-hostile", lines(&picture, &Screen::new(By::Wait), (80, 12)));
}
