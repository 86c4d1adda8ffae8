//! What keeps failing and is tried again and again: how long it has lasted, and what of it has been said.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

/// Another node's agent that is exchanged for a new one is away for some seconds, and that is nobody's concern.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// An error whose text is never the same twice must not fill the log or the memory.
const SAID_AT_MOST: usize = 32;

#[derive(Clone, Debug, Default)]
pub struct Trouble {
    since: Option<Instant>,
    said: BTreeSet<String>,
}

impl Trouble {
    /// Whether to warn of it: of each kind once, after it has all lasted for `patience`, until it ends.
    pub fn is_news(&mut self, text: &str, patience: Duration, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let lasts = now.saturating_duration_since(since) >= patience;
        lasts && self.said.len() < SAID_AT_MOST && self.said.insert(text.to_owned())
    }

    /// All is well again. Returns whether that is news: somebody has been warned.
    pub fn ends(&mut self) -> bool {
        !std::mem::take(self).said.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_news_once_and_only_if_it_lasts() {
        let (mut trouble, begin) = (Trouble::default(), Instant::now());
        let mut is_news = |text, seconds| {
            trouble.is_news(text, Duration::from_secs(10), begin + Duration::from_secs(seconds))
        };
        let said = [is_news("no answer", 0), is_news("no answer", 9), is_news("no answer", 10)];
        assert_eq!(said, [false, false, true]);
        assert_eq!([is_news("no answer", 11), is_news("no route", 11)], [false, true]);
    }

    #[test]
    fn an_end_is_news_if_there_was_a_warning_and_begins_anew() {
        let (mut trouble, begin) = (Trouble::default(), Instant::now());
        let patience = Duration::from_secs(10);
        assert!(!trouble.is_news("no answer", patience, begin));
        assert!(!trouble.ends());
        assert!(!trouble.is_news("no answer", patience, begin + patience));
        assert!(trouble.is_news("no answer", patience, begin + 2 * patience));
        assert!(trouble.ends());
        assert!(trouble.is_news("no answer", Duration::ZERO, begin));
    }

    #[test]
    fn texts_that_are_never_the_same_do_not_fill_the_log() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        let news = (0..1000).filter(|n| trouble.is_news(&n.to_string(), Duration::ZERO, now));
        assert_eq!(news.count(), SAID_AT_MOST);
    }
}
