//! What only a terminal understands: colours, and a line that is written over. In a pipe or a file both would be rubbish.

use std::{
    env,
    io::{IsTerminal, stderr, stdout},
    time::{Duration, Instant},
};

/// Of no importance, for the standard error.
pub fn dim(text: &str) -> String {
    painted(text, "2", stderr().is_terminal())
}

/// A heading, for the standard output.
pub fn bold(text: &str) -> String {
    painted(text, "1", stdout().is_terminal())
}

/// `NO_COLOR` is the convention of <https://no-color.org>.
fn painted(text: &str, attribute: &str, terminal: bool) -> String {
    let wanted = terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if wanted { format!("\x1b[{attribute}m{text}\x1b[0m") } else { text.to_owned() }
}

/// How far something has come, on the standard error: one line that is written over on a terminal, else a line now and then.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
    /// The length of what stands in the terminal's line.
    shown: usize,
    last: Option<Instant>,
}

/// Between two lines where there is no terminal.
const EVERY: Duration = Duration::from_secs(10);

impl Progress {
    #[expect(
        clippy::new_without_default,
        reason = "it says where it writes, which nobody should get unasked"
    )]
    pub fn new() -> Self {
        Self { terminal: stderr().is_terminal(), shown: 0, last: None }
    }

    pub fn show(&mut self, text: &str) {
        if let Some(written) = self.written(text, Instant::now()) {
            eprint!("{written}");
        }
    }

    /// What brings this onto the screen, or into the file if it is time for another line.
    fn written(&mut self, text: &str, now: Instant) -> Option<String> {
        if self.terminal {
            let before = std::mem::replace(&mut self.shown, text.chars().count());
            return Some(format!("\r{text:before$}"));
        }
        if self.last.is_some_and(|last| now.duration_since(last) < EVERY) {
            return None;
        }
        self.last = Some(now);
        Some(format!("{text}\n"))
    }
}

impl Drop for Progress {
    /// What is written next begins with a line of its own.
    fn drop(&mut self) {
        if self.shown > 0 {
            eprint!("\r{:1$}\r", "", self.shown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals() {
        assert_eq!(painted("said", "2", false), "said");
    }

    #[test]
    fn a_terminals_line_is_written_over_whole() {
        let mut progress = Progress { terminal: true, shown: 0, last: None };
        let now = Instant::now();
        assert_eq!(progress.written("10 of 21", now).as_deref(), Some("\r10 of 21"));
        assert_eq!(progress.written("done", now).as_deref(), Some("\rdone    "));
    }

    #[test]
    fn a_file_gets_lines_and_not_too_many() {
        let mut progress = Progress { terminal: false, shown: 0, last: None };
        let begin = Instant::now();
        assert_eq!(progress.written("1 of 21", begin).as_deref(), Some("1 of 21\n"));
        assert_eq!(progress.written("2 of 21", begin + EVERY / 2), None);
        assert_eq!(progress.written("3 of 21", begin + EVERY).as_deref(), Some("3 of 21\n"));
    }
}
