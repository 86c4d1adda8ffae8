//! The cluster's cookie: by it a node tells what other nodes send through the tunnel from what somebody sends in their name who cannot
//! see their packets.
//!
//! It stands in the fields of the VXLAN header that are reserved (RFC 7348 §5: sent as 0, and not looked at): 24 bits behind the
//! flags and 8 behind the VNI. So nodes that know nothing of it go on taking what has one.

/// A cookie of 32 bits; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Cookie(u32);

impl Cookie {
    pub const NONE: Self = Self(0);

    /// `None` for the number that says that there is none.
    pub const fn new(number: u32) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// From the bytes behind the flags and the one behind the VNI.
    #[inline(always)]
    pub const fn from_wire([a, b, c]: [u8; 3], d: u8) -> Self {
        Self(u32::from_be_bytes([a, b, c, d]))
    }

    /// The bytes behind the flags, and the one behind the VNI.
    #[inline(always)]
    pub const fn wire(self) -> ([u8; 3], u8) {
        let [a, b, c, d] = self.0.to_be_bytes();
        ([a, b, c], d)
    }
}

/// What this node sends, and what it takes from nodes that have to have one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Cookies {
    /// [`Cookie::NONE`] sends none.
    pub sent: Cookie,
    /// Those before, now and next; [`Cookie::NONE`] is nobody's.
    pub taken: [Cookie; 3],
}

impl Cookies {
    /// Whether this is one of the cluster's.
    #[inline(always)]
    pub fn take(&self, cookie: Cookie) -> bool {
        cookie != Cookie::NONE && self.taken.contains(&cookie)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cookie_is_never_right() {
        let [one, other] = [7, 9].map(|number| Cookie::new(number).unwrap());
        let cookies = Cookies { sent: one, taken: [one, Cookie::NONE, Cookie::NONE] };
        assert!(cookies.take(one) && !cookies.take(other) && !cookies.take(Cookie::NONE));
        assert!(!Cookies::default().take(Cookie::NONE));
        assert_eq!(Cookie::new(0), None);
    }

    #[test]
    fn a_cookie_survives_the_wire() {
        let cookie = Cookie::new(0x1234_5678).unwrap();
        assert_eq!(cookie.wire(), ([0x12, 0x34, 0x56], 0x78));
        let (behind_flags, behind_vni) = cookie.wire();
        assert_eq!(Cookie::from_wire(behind_flags, behind_vni), cookie);
    }
}
