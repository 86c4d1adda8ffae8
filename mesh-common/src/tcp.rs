//! How far a TCP conversation has come, from the flags that pass (RFC 9293 §3.3.2, seen from between the two ends).

/// Bits of the flags byte in a TCP header.
pub mod flag {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

/// What has been seen so far. A flow with none of these bits is opening: only its SYN has passed.
pub mod state {
    /// The client has acknowledged something: the handshake is complete.
    pub const ESTABLISHED: u8 = 1;
    pub const CLIENT_FINISHED: u8 = 2;
    pub const TASK_FINISHED: u8 = 4;
    pub const RESET: u8 = 8;
}

/// Who sent a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    Client,
    Task,
}

/// A SYN that is not a SYN-ACK.
#[inline(always)]
pub const fn is_opening(flags: u8) -> bool {
    flags & (flag::SYN | flag::ACK) == flag::SYN
}

/// The state after a segment with `flags` from `sender`.
#[inline(always)]
pub const fn after(state: u8, flags: u8, sender: Sender) -> u8 {
    let mut next = state;
    if flags & flag::RST != 0 {
        next |= state::RESET;
    }
    match sender {
        Sender::Client => {
            if flags & flag::ACK != 0 && flags & flag::SYN == 0 {
                next |= state::ESTABLISHED;
            }
            if flags & flag::FIN != 0 {
                next |= state::CLIENT_FINISHED;
            }
        }
        Sender::Task => {
            if flags & flag::FIN != 0 {
                next |= state::TASK_FINISHED;
            }
        }
    }
    next
}

/// Whether the conversation is over, so that a SYN on the same ports starts another one.
#[inline(always)]
pub const fn is_closed(state: u8) -> bool {
    const FINISHED: u8 = state::CLIENT_FINISHED | state::TASK_FINISHED;
    state & state::RESET != 0 || state & FINISHED == FINISHED
}

/// As [`is_closed`], for an entry node that does not see the task's segments (`return=direct`): one FIN is enough.
#[inline(always)]
pub const fn may_be_reused(state: u8) -> bool {
    state & (state::RESET | state::CLIENT_FINISHED | state::TASK_FINISHED) != 0
}

#[cfg(test)]
mod tests {
    use super::flag::{ACK, FIN, RST, SYN};
    use super::*;

    fn run(segments: &[(u8, Sender)]) -> u8 {
        segments.iter().fold(0, |state, (flags, sender)| after(state, *flags, *sender))
    }

    #[test]
    fn a_conversation_opens_and_closes() {
        use Sender::{Client, Task};
        let opening = run(&[(SYN, Client), (SYN | ACK, Task)]);
        assert_eq!(opening, 0);
        let open = run(&[(SYN, Client), (SYN | ACK, Task), (ACK, Client)]);
        assert_eq!(open, state::ESTABLISHED);
        assert!(!is_closed(after(open, FIN | ACK, Client)));
        assert!(is_closed(after(after(open, FIN | ACK, Client), FIN | ACK, Task)));
        assert!(is_closed(after(open, RST, Task)));
    }

    #[test]
    fn only_a_bare_syn_opens() {
        assert!(is_opening(SYN));
        assert!(!is_opening(SYN | ACK));
        assert!(!is_opening(ACK));
        assert!(!is_opening(FIN | ACK));
    }
}
