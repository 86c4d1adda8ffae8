//! Netlink messages and their attributes (linux/netlink.h, linux/netfilter/nfnetlink.h). Pure; whatever is cut off or malformed
//! ends what it is part of.

/// Bytes of `nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `nfgenmsg`.
const FAMILY_HEADER: usize = 4;
/// Attributes without their flags (`NLA_TYPE_MASK`).
const KIND: u16 = 0x3fff;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
pub const ERROR: u16 = 2;
pub const DONE: u16 = 3;

/// One message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Subsystem and what it is about.
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Behind the header.
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// `NFPROTO_…`.
    pub fn family(&self) -> u8 {
        self.payload.first().copied().unwrap_or(0)
    }

    pub fn attributes(&self) -> Attributes<'a> {
        attributes(self.payload.get(FAMILY_HEADER..).unwrap_or_default())
    }

    /// For [`ERROR`] and [`DONE`], the error number, negative; 0 is none.
    pub fn error(&self) -> i32 {
        self.payload.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes)
    }
}

/// The messages that stand one behind the other in `bytes`.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let message = bytes.get(..length).filter(|message| message.len() >= HEADER)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([message[4], message[5]]),
            flags: u16::from_ne_bytes([message[6], message[7]]),
            sequence: u32::from_ne_bytes(message[8..12].try_into().ok()?),
            payload: &message[HEADER..],
        })
    })
}

/// A request of nfnetlink.
pub fn request(kind: u16, flags: u16, sequence: u32, family: u8, attributes: &[u8]) -> Vec<u8> {
    let length = (HEADER + FAMILY_HEADER + attributes.len()) as u32;
    let mut bytes = Vec::with_capacity(length as usize);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, 0, 0, 0]);
    bytes.extend(attributes);
    bytes
}

/// An attribute that is a string.
pub fn string(kind: u16, value: &str) -> Vec<u8> {
    let length = 4 + value.len() + 1;
    let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
    bytes.extend((length as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value.as_bytes());
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// Attributes, one behind the other: kind and value.
#[derive(Clone, Debug)]
pub struct Attributes<'a>(&'a [u8]);

/// The attributes in `bytes`.
pub fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes(bytes)
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes([*self.0.first()?, *self.0.get(1)?]));
        let attribute = self.0.get(..length).filter(|attribute| attribute.len() >= 4)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([attribute[2], attribute[3]]) & KIND, &attribute[4..]))
    }
}

impl<'a> Attributes<'a> {
    pub fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    #[must_use]
    pub fn nested(&self, kind: u16) -> Attributes<'a> {
        attributes(self.get(kind).unwrap_or_default())
    }

    /// In network byte order, as nfnetlink writes numbers.
    pub fn u32(&self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    pub fn u16(&self, kind: u16) -> Option<u16> {
        Some(u16::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    pub fn u8(&self, kind: u16) -> Option<u8> {
        self.get(kind)?.first().copied()
    }

    pub fn string(&self, kind: u16) -> Option<String> {
        self.get(kind).map(text)
    }
}

/// What stands before the first zero byte.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_asked_can_be_read() {
        let mut attributes = string(1, "filter");
        attributes.extend(string(0x8003, "x"));
        let bytes = [request(0x0a01, 0x301, 7, 2, &attributes), request(9, 0, 8, 0, &[])].concat();
        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].kind, read[0].flags, read[0].sequence, read[0].family()), (0x0a01, 0x301, 7, 2));
        assert_eq!(read[0].attributes().string(1).as_deref(), Some("filter"));
        assert_eq!(read[0].attributes().string(3).as_deref(), Some("x"));
        assert_eq!(read[0].attributes().get(2), None);
        assert_eq!(read[1].attributes().count(), 0);
    }

    proptest! {
        #[test]
        fn no_bytes_at_all_bring_the_reader_down(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                let _ = (message.family(), message.error());
                for (_, value) in message.attributes() {
                    let _ = (attributes(value).count(), text(value));
                }
            }
        }
    }
}
