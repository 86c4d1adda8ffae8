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
    /// The client has acknowledged something.
    pub const ESTABLISHED: u8 = 1;
    pub const CLIENT_FINISHED: u8 = 2;
    pub const TASK_FINISHED: u8 = 4;
    pub const RESET: u8 = 8;
    /// The task has answered the SYN, so it is known what the client must acknowledge.
    pub const ANSWERED: u8 = 16;
    /// The SYN has not passed here: the entry was lost, or the client's packets took another way before.
    pub const ADOPTED: u8 = 32;
    /// Both ends have shown that they hear each other.
    pub const PROVEN: u8 = 64;
    /// The task has refused the SYN, and the client has not been told: another one shall have it.
    pub const REFUSED: u8 = 128;
}

/// How much more than the SYN the client's first acknowledgement that is seen may cover: what a task can have sent in the
/// meantime. An attacker who has to guess the number needs 2^32 / 2^16 attempts, and each one that misses is answered with a
/// RST.
const PROOF_WINDOW: u32 = 1 << 16;

/// How far from the last number of its client that is known the number of a segment may be that ends a conversation: what a
/// client can have sent in the meantime. Whoever does not see the conversation hits with one attempt in 1,024 (RFC 5961
/// §1.1 has such attackers in mind; the ends themselves ask for more).
const END_WINDOW: u32 = 1 << 21;

/// Whether a client's segment with this sequence number may end a conversation whose client was last known to be at `known`;
/// 0 if nothing is known.
#[inline(always)]
const fn is_believable(known: u32, sequence: u32) -> bool {
    known == 0 || sequence.wrapping_sub(known).wrapping_add(END_WINDOW) < 2 * END_WINDOW
}

/// A number of a client's to be compared with later ones: it says that it is known.
#[inline(always)]
pub const fn known_number(sequence: u32) -> u32 {
    sequence | 1
}

/// What there is to note of a client's segment, by its flags and its sequence number, in an established conversation: the flags that
/// count, and where the client is now.
#[inline(always)]
pub const fn believed(known: u32, flags: u8, sequence: u32) -> (u8, u32) {
    if is_believable(known, sequence) {
        (flags, known_number(sequence))
    } else {
        (flags & !(flag::FIN | flag::RST), known)
    }
}

/// Whether a client that was last known to be at `known` is so much further by a segment that ends nothing, that it is to be noted. One
/// that is not believable is not.
#[inline(always)]
pub const fn has_moved(known: u32, number: u32) -> bool {
    const CARES: u32 = END_WINDOW >> 3;

    known == 0 || number.wrapping_sub(known).wrapping_add(CARES) >= 2 * CARES && is_believable(known, number)
}

/// Who sent a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    Client,
    Task,
}

/// The state of a flow whose first segment, from its client, has `flags`.
#[inline(always)]
pub const fn first(flags: u8) -> u8 {
    after(if is_opening(flags) { 0 } else { state::ADOPTED }, flags, Sender::Client)
}

/// Whether a client's segment completes a handshake in which the task has been seen to await `expected`.
#[inline(always)]
pub const fn client_proves(state: u8, expected: u32, flags: u8, acknowledgement: u32) -> bool {
    state & (state::ANSWERED | state::ADOPTED) == state::ANSWERED
        && is_acknowledgement(flags)
        && acknowledgement.wrapping_sub(expected) < PROOF_WINDOW
}

/// Whether a task's segment shows that it knows a conversation whose SYN has not been seen: one that it does not know, it
/// resets.
#[inline(always)]
pub const fn task_proves(state: u8, flags: u8) -> bool {
    state & state::ADOPTED != 0 && is_acknowledgement(flags)
}

/// Whether a task's segment is a RST that answers nothing but a SYN.
#[inline(always)]
pub const fn may_refuse(state: u8, flags: u8) -> bool {
    flags & flag::RST != 0 && state & (state::ANSWERED | state::ADOPTED | state::PROVEN) == 0
}

/// An acknowledgement that neither opens nor resets.
#[inline(always)]
pub const fn is_acknowledgement(flags: u8) -> bool {
    flags & (flag::SYN | flag::RST | flag::ACK) == flag::ACK
}

/// A SYN-ACK.
#[inline(always)]
pub const fn is_syn_ack(flags: u8) -> bool {
    flags & (flag::SYN | flag::ACK | flag::RST) == flag::SYN | flag::ACK
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

/// The state of an established conversation whose task has taken another SYN.
#[inline(always)]
pub const fn begun_again(state: u8) -> u8 {
    state & !(state::RESET | state::CLIENT_FINISHED | state::TASK_FINISHED)
}

/// Whether the conversation is over, so that a SYN on the same ports starts another one.
#[inline(always)]
pub const fn is_closed(state: u8) -> bool {
    const FINISHED: u8 = state::CLIENT_FINISHED | state::TASK_FINISHED;
    state & state::RESET != 0 || state & FINISHED == FINISHED
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
    fn the_right_number_proves_and_no_other() {
        let answered = state::ANSWERED;
        for (acknowledgement, proves) in
            [(1000, true), (1001, true), (66_535, true), (66_536, false), (999, false), (0, false)]
        {
            assert_eq!(client_proves(answered, 1000, ACK, acknowledgement), proves, "{acknowledgement}");
        }
        assert!(client_proves(answered, u32::MAX, ACK, 5), "numbers wrap");
        assert!(!client_proves(0, 1000, ACK, 1000), "the task has not answered");
        assert!(!client_proves(answered, 1000, ACK | RST, 1000));
        assert!(!client_proves(answered, 1000, ACK | SYN, 1000));
        assert!(!client_proves(answered | state::ADOPTED, 1000, ACK, 1000));
    }

    #[test]
    fn a_task_proves_what_was_adopted_by_anything_but_a_reset() {
        let adopted = first(ACK);
        assert!(task_proves(adopted, ACK) && task_proves(adopted, ACK | FIN));
        assert!(
            !task_proves(adopted, RST)
                && !task_proves(adopted, RST | ACK)
                && !task_proves(adopted, SYN | ACK)
        );
        assert!(!task_proves(first(SYN), ACK));
    }

    #[test]
    fn only_an_unanswered_syn_can_be_refused() {
        assert!(may_refuse(first(SYN), RST | ACK));
        assert!(!may_refuse(first(SYN), ACK));
        assert!(!may_refuse(first(SYN) | state::ANSWERED, RST | ACK));
        assert!(!may_refuse(first(ACK), RST));
    }

    #[test]
    fn only_an_end_near_the_clients_last_number_is_believed() {
        let known = 0xffff_fff1;
        for near in [known, 0, 0x1f_fff0, known - 0x20_0000] {
            assert_eq!(believed(known, FIN | ACK, near), (FIN | ACK, near | 1), "{near:x}");
        }
        for far in [0x1f_fff1, known - 0x20_0001, 0x8000_0000] {
            assert_eq!(believed(known, FIN | ACK, far), (ACK, known), "{far:x}");
            assert_eq!(believed(known, RST, far), (0, known), "{far:x}");
            assert_eq!(believed(0, RST, far), (RST, far | 1), "nothing is known");
        }
    }

    #[test]
    fn a_client_has_moved_when_it_is_to_be_noted_before_its_end_would_not_be_believed() {
        let known: u32 = 0xffff_fff1;
        for (number, has_moved) in [
            (known, false),
            (known.wrapping_add(0x3_ffff), false),
            (known.wrapping_add(0x4_0000), true),
            (known.wrapping_add(0x1f_ffff), true),
            (known.wrapping_add(0x20_0000), false),
            (known - 0x4_0000, false),
            (known - 0x4_0001, true),
            (0x8000_0000, false),
        ] {
            assert_eq!(super::has_moved(known, number), has_moved, "{number:x}");
        }
        assert!(super::has_moved(0, 5), "nothing is known");
    }

    #[test]
    fn only_a_bare_syn_opens() {
        assert!(is_opening(SYN));
        assert!(!is_opening(SYN | ACK));
        assert!(!is_opening(ACK));
        assert!(!is_opening(FIN | ACK));
    }
}
