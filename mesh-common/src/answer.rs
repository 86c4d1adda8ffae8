//! Answers about names that the kernel gives by itself: the agent has given them once, and until the names change they are
//! what it would give again. The kernel compares and copies bytes; what they mean is the agent's business.

use crate::net::Address;

/// Bytes of a DNS message in front of what is compared and copied: its id (RFC 1035 §4.1.1).
pub const ID: usize = 2;
/// Bytes that a question may have behind its id: a name of 80 characters, or of 69 with EDNS.
pub const QUESTION: usize = 96;
/// Bytes that an answer may have behind its id.
pub const ANSWER: usize = 232;

/// A question as a container sent it: the key of `ANSWERS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct QuestionKey {
    /// The container's address on docker_gwbridge.
    pub asker: Address,
    /// How many bytes of `question` there are.
    pub length: u32,
    /// The message without its id; zeroes behind its end.
    pub question: [u8; QUESTION],
}

/// The value of `ANSWERS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Answer {
    /// Of the names that it was made from: it counts for as long as `ANSWERS_VERSION` has the same.
    pub version: u64,
    /// No other value has had it: the kernel uses a place again while somebody may still be reading it, and who sees the same
    /// number before and after has read one value.
    pub serial: u64,
    /// Where in `ANSWERED` it is counted.
    pub counter: u32,
    /// How many bytes of `answer` there are.
    pub length: u32,
    /// The message without its id.
    pub answer: [u8; ANSWER],
}

impl QuestionKey {
    /// `None` if the message has no id, nothing behind it, or too much.
    pub fn new(asker: Address, message: &[u8]) -> Option<Self> {
        let (length, question) = behind_id(message)?;
        Some(Self { asker, length, question })
    }
}

impl Answer {
    /// As [`QuestionKey::new`].
    pub fn new(version: u64, serial: u64, counter: u32, message: &[u8]) -> Option<Self> {
        let (length, answer) = behind_id(message)?;
        Some(Self { version, serial, counter, length, answer })
    }
}

fn behind_id<const N: usize>(message: &[u8]) -> Option<(u32, [u8; N])> {
    let bytes = message.get(ID..).filter(|bytes| !bytes.is_empty())?;
    let mut padded = [0; N];
    padded.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some((bytes.len() as u32, padded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_lose_their_id_and_are_padded() {
        let asker = Address::new([172, 18, 0, 3]);
        let key = QuestionKey::new(asker, &[9, 9, 1, 2, 3]).expect("fits");
        assert_eq!((key.asker, key.length, &key.question[..5]), (asker, 3, &[1, 2, 3, 0, 0][..]));
        assert_ne!(QuestionKey::new(asker, &[9, 9, 1, 2, 3, 0]), Some(key));
        let answer = Answer::new(7, 6, 8, &[9, 9, 4]).expect("fits");
        assert_eq!(
            (answer.version, answer.serial, answer.counter, answer.length, answer.answer[0]),
            (7, 6, 8, 1, 4)
        );
    }

    #[test]
    fn what_does_not_fit_is_left_to_the_agent() {
        let asker = Address::new([172, 18, 0, 3]);
        for (length, fits) in
            [(0, false), (2, false), (3, true), (ID + QUESTION, true), (ID + QUESTION + 1, false)]
        {
            assert_eq!(QuestionKey::new(asker, &[1; 512][..length]).is_some(), fits, "{length}");
        }
        assert!(Answer::new(0, 0, 0, &[1; ID + ANSWER]).is_some());
        assert!(Answer::new(0, 0, 0, &[1; ID + ANSWER + 1]).is_none());
    }
}
