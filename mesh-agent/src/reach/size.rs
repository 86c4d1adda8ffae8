//! How large packets get to a node, from which questions are answered. Pure.
//!
//! A router that cannot pass a packet on says so (ICMP), unless somebody filters that. So the node is asked with packets as large as
//! this node's routes and interfaces take. Once three of them are lost in a row while small ones are answered, all sizes are tried
//! at once: the largest that is answered counts (RFC 4821 does the same with what it carries).

use std::time::Duration;

/// Sizes of IP packets that ways between nodes are known to have, the largest first: jumbo frames, tunnels of all kinds in an
/// Ethernet, and the least that everybody has to take.
const USUAL: [u16; 32] = [
    9_000, 8_950, 8_900, 8_500, 8_166, 4_464, 4_352, 2_048, 1_500, 1_492, 1_480, 1_476, 1_472, 1_468, 1_462,
    1_460, 1_450, 1_440, 1_430, 1_420, 1_410, 1_400, 1_390, 1_380, 1_360, 1_340, 1_300, 1_280, 1_200, 1_000,
    800, 576,
];

/// So many in a row are lost because they are too large, and not by chance.
const LOST: u32 = 3;

/// The largest packet that gets to a node, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathSize {
    /// What this node's routes and interfaces take.
    full: u16,
    narrow: Option<u16>,
    lost: u32,
    /// Nothing large is answered at all: by programs of a version that answers only what is small.
    is_mute: bool,
}

/// Which questions were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Answered {
    /// One that is as small as can be, and was sent last.
    pub(super) small: bool,
    /// The largest of those of a size.
    pub(super) largest: Option<u16>,
}

impl PathSize {
    /// Nobody has said otherwise yet than that `narrow` bytes get there, or `full`.
    pub(super) fn new(full: u16, narrow: Option<u16>) -> Self {
        Self { full, narrow: narrow.filter(|narrow| *narrow < full), lost: 0, is_mute: false }
    }

    /// What gets there, if it is less than this node's routes and interfaces take.
    pub(super) fn narrow(&self) -> Option<u16> {
        self.narrow
    }

    /// The sizes to ask with next, the largest first.
    pub(super) fn questions(&self) -> Vec<u16> {
        let least = match self.narrow {
            _ if self.lost >= LOST => 0,
            Some(narrow) => narrow,
            None => self.full,
        };
        let usual = USUAL.into_iter().filter(|size| (least..self.full).contains(size));
        let known = self.narrow.filter(|narrow| !USUAL.contains(narrow));
        let mut sizes: Vec<u16> = usual.chain([self.full]).chain(known).collect();
        sizes.sort_unstable_by(|one, other| other.cmp(one));
        sizes
    }

    /// Takes note of what was answered, of the last questions.
    pub(super) fn learn(&mut self, answered: Answered) {
        match answered.largest {
            Some(size) => {
                self.narrow = Some(size).filter(|size| *size < self.full);
                self.lost = 0;
                self.is_mute = false;
            }
            // Nobody is there, or nothing gets there.
            None if !answered.small => {}
            None if self.lost < LOST => self.lost += 1,
            None => {
                self.narrow = None;
                self.lost = 0;
                self.is_mute = true;
            }
        }
    }

    /// How long to wait before the next questions.
    pub(super) fn pause(&self, answered: Answered) -> Duration {
        match answered {
            Answered { largest: Some(_), .. } => Duration::from_secs(10),
            Answered { small: false, .. } => Duration::from_secs(2),
            _ if self.is_mute && self.lost == 0 => Duration::from_mins(1),
            _ => Duration::from_millis(500),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a path answers that takes so many bytes.
    fn path(takes: u16) -> impl Fn(&[u16]) -> Answered {
        move |questions| Answered {
            small: true,
            largest: questions.iter().copied().find(|size| *size <= takes),
        }
    }

    /// After so many questions.
    fn after(size: &mut PathSize, times: u32, path: impl Fn(&[u16]) -> Answered) -> Option<u16> {
        for _ in 0..times {
            size.learn(path(&size.questions()));
        }
        size.narrow()
    }

    #[test]
    fn while_the_full_size_is_answered_nothing_else_is_asked() {
        let mut size = PathSize::new(1_500, None);
        for _ in 0..10 {
            assert_eq!(size.questions(), [1_500]);
            assert_eq!(after(&mut size, 1, path(1_500)), None);
        }
    }

    #[test]
    fn three_lost_in_a_row_are_a_narrow_path_and_its_size_is_found() {
        for (takes, found) in [(8_999, 8_950), (1_500, 1_500), (1_423, 1_420), (1_280, 1_280), (576, 576)] {
            let mut size = PathSize::new(9_001, None);
            assert_eq!(after(&mut size, 3, path(takes)), None);
            assert_eq!(after(&mut size, 1, path(takes)), Some(found), "{takes}");
            assert_eq!(after(&mut size, 100, path(takes)), Some(found), "{takes}");
        }
    }

    #[test]
    fn losses_by_chance_are_none() {
        let mut size = PathSize::new(1_500, None);
        for _ in 0..10 {
            assert_eq!(after(&mut size, 2, path(100)), None);
            assert_eq!(after(&mut size, 1, path(1_500)), None);
        }
    }

    #[test]
    fn a_path_that_takes_more_again_is_believed_at_once() {
        let mut size = PathSize::new(1_500, None);
        assert_eq!(after(&mut size, 4, path(1_300)), Some(1_300));
        assert_eq!(after(&mut size, 1, path(1_411)), Some(1_410));
        assert_eq!(after(&mut size, 1, path(1_500)), None);
        assert_eq!(size.questions(), [1_500]);
    }

    #[test]
    fn a_path_that_takes_less_again_is_found_too() {
        let mut size = PathSize::new(1_500, None);
        assert_eq!(after(&mut size, 4, path(1_400)), Some(1_400));
        assert_eq!(after(&mut size, 3, path(1_300)), Some(1_400));
        assert_eq!(after(&mut size, 1, path(1_300)), Some(1_300));
    }

    #[test]
    fn who_answers_nothing_large_is_of_another_version_and_seldom_asked() {
        let mut size = PathSize::new(1_500, None);
        for _ in 0..3 {
            assert_eq!(after(&mut size, 4, path(100)), None);
            assert_eq!(size.pause(path(100)(&[])), Duration::from_mins(1));
        }
        assert_eq!(after(&mut size, 1, path(1_500)), None);
        assert_eq!(after(&mut size, 4, path(1_400)), Some(1_400));
    }

    #[test]
    fn from_a_node_that_answers_nothing_nothing_is_concluded() {
        let mut size = PathSize::new(1_500, Some(1_400));
        assert_eq!(after(&mut size, 100, |_| Answered::default()), Some(1_400));
        assert_eq!(after(&mut size, 1, path(1_500)), None);
    }

    #[test]
    fn what_was_known_before_counts_until_it_is_answered() {
        assert_eq!(PathSize::new(1_500, Some(1_500)).narrow(), None);
        let mut size = PathSize::new(1_500, Some(1_411));
        assert_eq!(size.questions().last(), Some(&1_411), "it is none of the usual ones");
        assert_eq!(after(&mut size, 1, path(1_411)), Some(1_411));
        assert_eq!(after(&mut PathSize::new(500, None), 10, path(400)), None, "nothing less is asked");
    }
}
