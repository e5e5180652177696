//! Keys and mouse.

use super::*;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};

const SIZE: (u16, u16) = (80, 24);

struct User {
    screen: Screen,
    picture: Picture,
}

impl User {
    fn of(world: &mut World) -> User {
        User { screen: Screen::new(By::Wait), picture: world.picture(&Query::usual()) }
    }

    fn press(&mut self, code: KeyCode) -> Action {
        self.screen.key(KeyEvent::new(code, KeyModifiers::NONE), Some(&self.picture), SIZE.1)
    }

    fn type_in(&mut self, text: &str) -> Action {
        text.chars().fold(Action::Draw, |_, typed| self.press(KeyCode::Char(typed)))
    }

    fn click(&mut self, column: u16, row: u16) -> Action {
        let kind = MouseEventKind::Down(MouseButton::Left);
        let mouse = MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE };
        self.screen.mouse(mouse, Some(&self.picture), SIZE)
    }

    fn line(&self, y: usize) -> String {
        let text = text(&self.picture, &self.screen, &Look::default(), SIZE.0, SIZE.1);
        text.lines().nth(y).unwrap_or_default().to_owned()
    }
}

#[test]
fn digits_and_tab_switch_the_table() {
    let mut user = User::of(&mut shop());
    for (key, by) in ['1', '2', '3', '4'].into_iter().zip(By::ALL) {
        user.type_in(&key.to_string());
        assert_eq!(user.screen.by, by);
    }
    user.press(KeyCode::Tab);
    assert_eq!(user.screen.by, By::Wait);
    user.press(KeyCode::BackTab);
    assert_eq!(user.screen.by, By::Goroutine);
}

#[test]
fn a_filter_is_typed_and_taken_away() {
    let mut user = User::of(&mut shop());
    assert_eq!(user.type_in("/q("), Action::Draw, "q is a letter now");
    assert!(user.line(23).contains("q("), "{}", user.line(23));
    assert_eq!(user.press(KeyCode::Enter), Action::Draw);
    assert!(user.line(23).contains("no regular expression"), "{}", user.line(23));
    user.type_in("/loax");
    user.press(KeyCode::Backspace);
    assert_eq!(user.type_in("d"), Action::Draw);
    assert_eq!(user.press(KeyCode::Enter), Action::Ask);
    assert_eq!(user.screen.table(&user.picture).rows.len(), 1);
    assert!(user.line(3).contains("/load/"), "{}", user.line(3));
    assert_eq!(user.press(KeyCode::Esc), Action::Ask);
    assert_eq!(user.screen.table(&user.picture).rows.len(), 2);
}

#[test]
fn the_chosen_row_is_kept_wherever_it_goes() {
    let mut user = User::of(&mut shop());
    user.press(KeyCode::Down);
    assert!(user.line(6).starts_with("> ") && user.line(6).contains("main.load"), "{}", user.line(6));
    user.type_in("r");
    assert!(user.line(5).starts_with("> ") && user.line(5).contains("main.load"), "{}", user.line(5));
    user.press(KeyCode::End);
    user.press(KeyCode::Down);
    assert!(user.line(6).starts_with("> ") && user.line(6).contains("store.go:44"), "{}", user.line(6));
}

#[test]
fn enter_leads_from_a_place_to_its_goroutines_and_to_one_of_them() {
    let mut world = shop();
    let mut user = User::of(&mut world);
    user.press(KeyCode::Home);
    assert_eq!(user.press(KeyCode::Enter), Action::Ask);
    assert_eq!(user.screen.by, By::Goroutine);
    let goids: Vec<u64> = user.screen.table(&user.picture).rows.iter().map(|row| row.key.goid).collect();
    assert_eq!(goids, [8, 7], "those that wait there, the longest first");
    assert_eq!(user.press(KeyCode::Enter), Action::Ask);
    assert_eq!((user.screen.pane, user.screen.query.detail), (Pane::Detail, Some((0, 8))));
    assert_eq!(user.press(KeyCode::Esc), Action::Ask);
    assert_eq!((user.screen.pane, user.screen.query.detail), (Pane::Table, None));
}

#[test]
fn clicks_sort_choose_and_switch() {
    let mut user = User::of(&mut shop());
    let now = user.line(4).find("NOW").expect("a heading");
    assert_eq!(user.click(u16::try_from(now).expect("small"), 4), Action::Ask);
    assert_eq!(user.screen.sort(), Sort { column: 0, reverse: false });
    user.click(u16::try_from(now).expect("small"), 4);
    assert_eq!(user.screen.sort(), Sort { column: 0, reverse: true });
    assert_eq!(user.click(10, 6), Action::Draw);
    assert!(user.line(6).starts_with("> "), "{}", user.line(6));
    assert_eq!(user.click(10, 6), Action::Ask, "a second click goes in");
    assert_eq!(user.screen.by, By::Goroutine);
    assert_eq!(user.click(10, 20), Action::Draw, "there is no row");
    let states = user.line(3).find("3 states").expect("a tab");
    user.click(u16::try_from(states).expect("small"), 3);
    assert_eq!(user.screen.by, By::State);
}

#[test]
fn sorting_goes_round_and_leaves_and_quits_are_told() {
    let mut user = User::of(&mut shop());
    let columns = By::Wait.columns().len();
    for _ in 0..columns {
        user.type_in(">");
    }
    assert_eq!(user.screen.sort().column, Query::usual().sort[0].column);
    for _ in 0..=user.screen.sort().column {
        user.type_in("<");
    }
    assert_eq!(user.screen.sort().column, columns - 1);
    assert_eq!(user.type_in("L"), Action::FindLeaks(0));
    assert_eq!(user.screen.pane, Pane::Leaks);
    assert_eq!(user.type_in("q"), Action::Quit);
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(user.screen.key(interrupt, None, 24), Action::Quit);
}

#[test]
fn nothing_breaks_without_a_picture_or_without_rows() {
    let mut empty = User::of(&mut World::one());
    let keys = ["jkgG", "1234", "<>rst", "fL?h", "pp", "/x"];
    for key in keys.concat().chars() {
        let _ = empty.screen.key(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE), None, 1);
        empty.type_in(&key.to_string());
        for size in [(1, 1), (3, 2), (80, 24)] {
            text(&empty.picture, &empty.screen, &Look::default(), size.0, size.1);
        }
    }
    for code in [KeyCode::Enter, KeyCode::PageDown, KeyCode::PageUp, KeyCode::End, KeyCode::Enter] {
        empty.press(code);
    }
}
