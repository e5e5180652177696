//! What the user does with a picture: keys and mouse in, the state of the screen out. No terminal and no clock.

use super::{
    By, Key, Picture, Query, Sort, Table,
    view::grid::{Areas, slots, tab_at},
};
use ratatui::crossterm::event::{
    KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};
use regex::Regex;

/// Lines that one turn of the wheel scrolls.
const WHEEL: isize = 3;
/// Longest filter that can be typed, bytes; more characters are ignored.
const MAX_PROMPT: usize = 200;

/// What is shown below the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pane {
    /// The table of [`Screen::by`], which all other panes return to.
    #[default]
    Table,
    Detail,
    Findings,
    Leaks,
    Help,
}

/// What the caller must do about a key or the mouse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Draw,
    /// Draw, and ask for pictures of the new [`Screen::query`].
    Ask,
    /// Search this target (its number) for leaks.
    FindLeaks(usize),
    Quit,
}

/// The state of the screen, beside the picture.
#[derive(Clone, Debug)]
pub struct Screen {
    pub by: By,
    /// What pictures are asked for: order, filter, target, goroutine.
    pub query: Query,
    pub pane: Pane,
    /// The filter while it is typed; `None`: keys are commands.
    pub prompt: Option<String>,
    /// Why the last filter was refused; shown until the next one or Esc.
    pub refused: Option<String>,
    /// The shown picture is held. Tracing goes on.
    pub paused: bool,
    /// The chosen row, and its index when it was chosen: the place to stay at if the row vanishes.
    pub(super) chosen: Option<Key>,
    cursor: usize,
    /// First shown line of a pane that is longer than the screen.
    pub(super) scroll: usize,
    max_scroll: usize,
}

impl Screen {
    /// Shows the table of `by` in its usual order.
    pub fn new(by: By) -> Screen {
        Screen {
            by,
            query: Query::usual(),
            pane: Pane::Table,
            prompt: None,
            refused: None,
            paused: false,
            chosen: None,
            cursor: 0,
            scroll: 0,
            max_scroll: 0,
        }
    }

    pub fn sort(&self) -> Sort {
        self.query.sort[self.by as usize]
    }

    /// The rows of the shown table, filtered and in order.
    pub fn table(&self, picture: &Picture) -> Table {
        picture.table(self.by).chosen(&self.query, self.sort())
    }

    /// Index of the chosen row. The choice follows its row when the order changes.
    pub(super) fn row(&self, table: &Table) -> usize {
        let kept = self.chosen.and_then(|key| table.rows.iter().position(|row| row.key == key));
        kept.unwrap_or(self.cursor).min(table.rows.len().saturating_sub(1))
    }

    /// Takes what drawing returned: how far the pane can be scrolled. Only drawing knows how lines were wrapped.
    pub fn drawn(&mut self, max_scroll: usize) {
        self.max_scroll = max_scroll;
        self.scroll = self.scroll.min(max_scroll);
    }

    /// Handles a key. `height`: lines of the terminal.
    pub fn key(&mut self, key: KeyEvent, picture: Option<&Picture>, height: u16) -> Action {
        // Terminals with an extended keyboard protocol report releases, too.
        if key.kind == KeyEventKind::Release {
            return Action::Draw;
        }
        // Ctrl-C comes before the prompt: it must end sfgi also while a filter is typed.
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Action::Quit,
                _ => Action::Draw,
            };
        }
        if self.prompt.is_some() {
            return self.type_filter(key.code);
        }
        // Six lines are head, tabs, titles and footer (`Areas::of`, one target), and one counts the rows that follow.
        let page = isize::try_from(height.saturating_sub(7)).unwrap_or(0).max(1);
        match key.code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Char(digit @ '1'..='4') => self.show(By::ALL[digit as usize - '1' as usize]),
            KeyCode::Tab => self.show(By::ALL[(self.by as usize + 1) % By::ALL.len()]),
            KeyCode::BackTab => self.show(By::ALL[(self.by as usize + By::ALL.len() - 1) % By::ALL.len()]),
            KeyCode::Up | KeyCode::Char('k') => self.go(-1, picture),
            KeyCode::Down | KeyCode::Char('j') => self.go(1, picture),
            KeyCode::PageUp => self.go(-page, picture),
            KeyCode::PageDown => self.go(page, picture),
            KeyCode::Home | KeyCode::Char('g') => self.go(isize::MIN / 2, picture),
            KeyCode::End | KeyCode::Char('G') => self.go(isize::MAX / 2, picture),
            KeyCode::Char(' ' | 'p') => self.paused = !self.paused,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.open(Pane::Help),
            KeyCode::Char('f') => self.open(Pane::Findings),
            KeyCode::Char('/') => self.prompt = Some(String::new()),
            KeyCode::Char('L') => {
                self.open(Pane::Leaks);
                return Action::FindLeaks(self.target());
            }
            KeyCode::Char('l') => self.open(Pane::Leaks),
            KeyCode::Enter => return self.enter(picture),
            KeyCode::Esc => return self.leave(),
            KeyCode::Char(code) => return self.arrange(code, picture),
            _ => {}
        }
        Action::Draw
    }

    /// Handles keys that change what pictures are asked for.
    fn arrange(&mut self, code: char, picture: Option<&Picture>) -> Action {
        match code {
            '<' | ',' => self.sort_beside(-1, picture),
            '>' | '.' => self.sort_beside(1, picture),
            'r' => self.query.sort[self.by as usize].reverse ^= true,
            's' => self.query.system ^= true,
            't' => {
                let targets = picture.map_or(0, |picture| picture.heads.len());
                let next = self.query.target.map_or(0, |target| target + 1);
                self.query.target = (targets > 1 && next < targets).then_some(next);
            }
            _ => return Action::Draw,
        }
        Action::Ask
    }

    /// Handles the mouse on a terminal of this size.
    pub fn mouse(
        &mut self,
        mouse: MouseEvent,
        picture: Option<&Picture>,
        (width, height): (u16, u16),
    ) -> Action {
        match mouse.kind {
            MouseEventKind::ScrollUp => self.go(-WHEEL, picture),
            MouseEventKind::ScrollDown => self.go(WHEEL, picture),
            MouseEventKind::Down(MouseButton::Left) if self.pane == Pane::Table => {
                let Some(picture) = picture else { return Action::Draw };
                let areas = Areas::of(height, picture.heads.len());
                let table = self.table(picture);
                if mouse.row == areas.titles {
                    let slots = slots(table.columns, width, picture.heads.len() > 1);
                    let hit = slots.iter().find(|slot| (slot.x..slot.x + slot.width).contains(&mouse.column));
                    if let Some(column) = hit.and_then(|slot| slot.column) {
                        return self.sort_by(column);
                    }
                } else if areas.body.contains(&mouse.row) {
                    let line = usize::from(mouse.row - areas.body.start);
                    // `Areas::first` is what `draw_table` scrolls by, so that a click hits the row that is drawn there.
                    let index = areas.first(self.row(&table), table.rows.len()) + line;
                    // A click on the chosen row enters it. Terminals report no double clicks.
                    let again = self.chosen.is_some() && index == self.row(&table);
                    if index < table.rows.len() {
                        self.choose(&table, index);
                        return if again { self.enter(Some(picture)) } else { Action::Draw };
                    }
                } else if mouse.row == areas.tabs {
                    let tab = tab_at(mouse.column);
                    if let Some(by) = tab {
                        self.show(by);
                    }
                }
            }
            _ => {}
        }
        Action::Draw
    }

    fn target(&self) -> usize {
        self.chosen.map(|key| key.target).or(self.query.target).unwrap_or(0)
    }

    fn show(&mut self, by: By) {
        (self.by, self.pane, self.scroll) = (by, Pane::Table, 0);
        (self.chosen, self.cursor) = (None, 0);
    }

    fn open(&mut self, pane: Pane) {
        self.pane = if self.pane == pane { Pane::Table } else { pane };
        self.scroll = 0;
    }

    fn go(&mut self, by: isize, picture: Option<&Picture>) {
        if self.pane != Pane::Table {
            self.scroll = self.scroll.saturating_add_signed(by).min(self.max_scroll);
            return;
        }
        let Some(picture) = picture else { return };
        let table = self.table(picture);
        let to = self.row(&table).saturating_add_signed(by).min(table.rows.len().saturating_sub(1));
        self.choose(&table, to);
    }

    fn choose(&mut self, table: &Table, index: usize) {
        self.cursor = index;
        self.chosen = table.rows.get(index).map(|row| row.key);
    }

    fn sort_beside(&mut self, by: isize, picture: Option<&Picture>) {
        let columns = picture.map_or(1, |picture| picture.table(self.by).columns.len()).max(1);
        let sort = &mut self.query.sort[self.by as usize];
        *sort = Sort { column: (sort.column + columns).saturating_add_signed(by) % columns, reverse: false };
    }

    fn sort_by(&mut self, column: usize) -> Action {
        let sort = &mut self.query.sort[self.by as usize];
        *sort = Sort { column, reverse: sort.column == column && !sort.reverse };
        Action::Ask
    }

    /// Enters a row: shows a goroutine closely, or the goroutines of anything else.
    fn enter(&mut self, picture: Option<&Picture>) -> Action {
        let Some(picture) = picture.filter(|_| self.pane == Pane::Table) else { return Action::Draw };
        let table = self.table(picture);
        let Some(row) = table.rows.get(self.row(&table)) else { return Action::Draw };
        if row.key.goid != 0 {
            self.query.detail = Some((row.key.target, row.key.goid));
            self.chosen = Some(row.key);
            self.open(Pane::Detail);
            return Action::Ask;
        }
        // The first word names the function or the state. Goroutines have the same words, so a filter selects them.
        let word = row.words.iter().find(|word| !word.is_empty());
        let Some(filter) = word.and_then(|word| Regex::new(&format!("^{}$", regex::escape(word))).ok())
        else {
            return Action::Draw;
        };
        self.query.filter = Some(filter);
        self.show(By::Goroutine);
        Action::Ask
    }

    fn leave(&mut self) -> Action {
        self.refused = None;
        if self.pane != Pane::Table {
            (self.pane, self.scroll) = (Pane::Table, 0);
            self.query.detail = None;
        } else {
            self.query.filter = None;
        }
        Action::Ask
    }

    fn type_filter(&mut self, code: KeyCode) -> Action {
        let Some(prompt) = &mut self.prompt else { return Action::Draw };
        match code {
            KeyCode::Esc => self.prompt = None,
            KeyCode::Backspace => drop(prompt.pop()),
            KeyCode::Char(typed) if prompt.len() < MAX_PROMPT => prompt.push(typed),
            KeyCode::Enter => {
                let typed = self.prompt.take().unwrap_or_default();
                match Regex::new(&typed) {
                    Ok(filter) => {
                        (self.query.filter, self.refused) = ((!typed.is_empty()).then_some(filter), None);
                        return Action::Ask;
                    }
                    Err(_) => {
                        self.refused =
                            Some(format!("{typed:?} is no regular expression: the filter is as before"));
                    }
                }
            }
            _ => {}
        }
        Action::Draw
    }
}
