//! What the user makes of a picture: keys and mouse in, what is shown out.

use super::{
    By, Key, Picture, Query, Sort, Table,
    view::grid::{Areas, slots, tab_at},
};
use ratatui::crossterm::event::{
    KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};
use regex::Regex;

/// Lines of a turn of the wheel.
const WHEEL: isize = 3;
/// Characters of a filter.
const MAX_PROMPT: usize = 200;

/// What is shown below the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pane {
    /// The table of [`Screen::by`].
    #[default]
    Table,
    Detail,
    /// What is wrong.
    Findings,
    /// What is leaked.
    Leaks,
    Help,
}

/// What is to be done about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Draw,
    /// Another [`Screen::query`] is wanted of pictures from now on.
    Ask,
    /// Look for leaks in this target.
    FindLeaks(usize),
    Quit,
}

/// What is shown, and how.
#[derive(Clone, Debug)]
pub struct Screen {
    pub by: By,
    /// What is wanted of pictures.
    pub query: Query,
    pub pane: Pane,
    /// The filter that is being typed.
    pub prompt: Option<String>,
    /// Why what was typed is no filter.
    pub refused: Option<String>,
    /// The picture stands still.
    pub paused: bool,
    /// The row that is chosen, and where it was last.
    pub(super) chosen: Option<Key>,
    cursor: usize,
    /// The first line that is shown of a pane that is longer.
    pub(super) scroll: usize,
    max_scroll: usize,
}

impl Screen {
    /// The table of `by`, in its usual order.
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

    /// The order of the table that is shown.
    pub fn sort(&self) -> Sort {
        self.query.sort[self.by as usize]
    }

    /// The rows that are shown, in order.
    pub fn table(&self, picture: &Picture) -> Table {
        picture.table(self.by).chosen(&self.query, self.sort())
    }

    /// The index of the row that is chosen: it keeps to its row, wherever that goes.
    pub(super) fn row(&self, table: &Table) -> usize {
        let kept = self.chosen.and_then(|key| table.rows.iter().position(|row| row.key == key));
        kept.unwrap_or(self.cursor).min(table.rows.len().saturating_sub(1))
    }

    /// To be called with what drawing said.
    pub fn drawn(&mut self, max_scroll: usize) {
        self.max_scroll = max_scroll;
        self.scroll = self.scroll.min(max_scroll);
    }

    /// A key was pressed. `height`: lines of the terminal.
    pub fn key(&mut self, key: KeyEvent, picture: Option<&Picture>, height: u16) -> Action {
        if key.kind == KeyEventKind::Release {
            return Action::Draw;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Action::Quit,
                _ => Action::Draw,
            };
        }
        if self.prompt.is_some() {
            return self.type_filter(key.code);
        }
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

    /// Keys that change what is wanted of pictures.
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

    /// The mouse did something on a terminal of this size.
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
                    let index = areas.first(self.row(&table), table.rows.len()) + line;
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

    /// Goes into a row: a goroutine is looked at closely, of anything else the goroutines are shown.
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
