//! Tasks that a scenario means without caring which: `web.a` is some task of `web`, `web.b` another one, and each letter stays the
//! same task for the whole scenario.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::packets::Names;

#[derive(Debug, Default)]
pub(crate) struct Letters(BTreeMap<String, String>);

impl Letters {
    /// The text with the tasks that its letters stand for.
    pub(crate) fn resolved(&self, text: &str) -> Result<String> {
        let mut resolved = text.to_owned();
        for lettered in lettered(text) {
            let task = self.0.get(lettered);
            let task = task.with_context(|| format!("nothing has said yet which task {lettered} is"))?;
            resolved = resolved.replace(lettered, task);
        }
        Ok(resolved)
    }

    /// Whether a text is as expected; if so, new letters stand for the tasks in it.
    pub(crate) fn agree(&mut self, expected: &str, actual: &str, names: &Names) -> bool {
        let unknown = lettered(expected).into_iter().find(|word| !self.0.contains_key(*word));
        let Some(unknown) = unknown else {
            return self.resolved(expected).is_ok_and(|expected| expected == actual);
        };
        let service = unknown.rsplit_once('.').map_or(unknown, |(service, _)| service);
        for task in names.tasks(service) {
            if self.0.values().any(|taken| taken == task) {
                continue;
            }
            self.0.insert(unknown.to_owned(), task.to_owned());
            if self.agree(expected, actual, names) {
                return true;
            }
            self.0.remove(unknown);
        }
        false
    }
}

/// The words in a text that name a task by a letter.
fn lettered(text: &str) -> Vec<&str> {
    let text = text.split('"').next().unwrap_or_default();
    let words = text.split(|c: char| c.is_whitespace() || c == ':' || c == '@');
    let is_lettered = |word: &&str| {
        word.rsplit_once('.')
            .is_some_and(|(_, end)| end.len() == 1 && end.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    words.filter(is_lettered).collect()
}

pub(crate) fn words_with_letters_are_found() {
    assert_eq!(lettered("client:1 > web.a:80 tcp data \"x.y\""), ["web.a"]);
    assert_eq!(lettered("web.b@back:1 > web.12:2 udp 10.0.0.1:3"), ["web.b"]);
}
