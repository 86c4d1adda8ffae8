//! From single answers to what is known of a node. Pure.

/// What became of one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    Answered,
    /// The node's kernel said that nobody is at the tunnel's port.
    Refused,
    Nothing,
}

/// What is known of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pulse {
    /// It has never given a sign: it may be new, run an older version, or be behind a firewall. It is believed to be there.
    #[default]
    Unknown,
    Alive,
    /// It was there, and is not any more.
    Silent,
    /// It is up, but has no dataplane of ours.
    WithoutMesh,
}

impl Pulse {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Alive => "answers",
            Self::Silent => "silent",
            Self::WithoutMesh => "no mesh",
        }
    }
}

/// The latest signs of one node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Signs {
    pulse: Pulse,
    last: Option<Sign>,
    /// How often in a row.
    times: u32,
}

/// With a probe each 500 ms, a dead node is known 2 to 2.5 s after its last answer.
const SILENT_AFTER: u32 = 4;
/// A single sign may be a packet that was late.
const SURE_AFTER: u32 = 2;

impl Signs {
    pub(super) fn pulse(self) -> Pulse {
        self.pulse
    }

    /// What is known after one more sign.
    pub(super) fn after(&mut self, sign: Sign) -> Pulse {
        self.times = if self.last == Some(sign) { self.times.saturating_add(1) } else { 1 };
        self.last = Some(sign);
        self.pulse = match (sign, self.pulse) {
            (Sign::Answered, Pulse::Unknown) => Pulse::Alive,
            (Sign::Answered, _) if self.times >= SURE_AFTER => Pulse::Alive,
            (Sign::Refused, _) if self.times >= SURE_AFTER => Pulse::WithoutMesh,
            (Sign::Nothing, Pulse::Alive | Pulse::WithoutMesh) if self.times >= SILENT_AFTER => Pulse::Silent,
            (_, same) => same,
        };
        self.pulse
    }
}

#[cfg(test)]
mod tests {
    use super::Sign::{Answered, Nothing, Refused};
    use super::*;

    fn pulse_after(signs: &[Sign]) -> Pulse {
        let mut known = Signs::default();
        signs.iter().map(|sign| known.after(*sign)).last().unwrap_or_default()
    }

    #[test]
    fn who_was_never_heard_is_not_missed() {
        assert_eq!(pulse_after(&[Nothing; 100]), Pulse::Unknown);
    }

    #[test]
    fn four_answers_that_are_missing_in_a_row_are_silence() {
        assert_eq!(pulse_after(&[Answered, Nothing, Nothing, Nothing]), Pulse::Alive);
        assert_eq!(pulse_after(&[Answered, Nothing, Nothing, Nothing, Nothing]), Pulse::Silent);
        let flickering = [Answered, Nothing, Nothing, Nothing].repeat(10);
        assert_eq!(pulse_after(&flickering), Pulse::Alive);
    }

    #[test]
    fn a_node_is_back_with_its_second_answer_in_a_row() {
        let gone = [Answered, Nothing, Nothing, Nothing, Nothing];
        assert_eq!(pulse_after(&[&gone[..], &[Answered]].concat()), Pulse::Silent);
        assert_eq!(pulse_after(&[&gone[..], &[Answered, Answered]].concat()), Pulse::Alive);
    }

    #[test]
    fn a_node_that_refuses_is_up_without_the_mesh_until_it_answers_or_falls_silent() {
        assert_eq!(pulse_after(&[Refused]), Pulse::Unknown);
        assert_eq!(pulse_after(&[Refused, Refused]), Pulse::WithoutMesh);
        assert_eq!(pulse_after(&[Refused, Refused, Answered, Answered]), Pulse::Alive);
        let crashed = [Refused, Refused, Nothing, Nothing, Nothing, Nothing];
        assert_eq!(pulse_after(&crashed), Pulse::Silent);
    }
}
