//! What is to become of a packet: decided by the steps, carried out by `main.rs`.

use mesh_common::outcome::Outcome;

/// An outcome, and where the packet goes if it goes anywhere.
#[derive(Clone, Copy)]
#[must_use]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    pub(crate) way: Way,
}

/// How a packet leaves.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// It does not: passed or dropped, as the outcome says.
    None,
    /// Out of this interface, with the hardware addresses that it has.
    Interface(u32),
    /// Out of this interface; the kernel fills in the hardware addresses.
    Neighbour(u32),
    /// In by this interface, as if it had just been received.
    Inward(u32),
    /// In by the other end of this interface, in another namespace, as if it had just been received there.
    Behind(u32),
    /// It becomes the answer to its sender, and goes back the way it came.
    Back(Answer),
}

/// What a sender is told instead of being served.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    /// TCP RST.
    Reset,
    /// ICMP port unreachable.
    PortUnreachable,
    /// ICMP fragmentation needed, with the size that fits.
    FragmentationNeeded(u16),
}

impl From<(Outcome, Way)> for Verdict {
    #[inline(always)]
    fn from((outcome, way): (Outcome, Way)) -> Self {
        Self { outcome, way }
    }
}

impl From<Outcome> for Verdict {
    #[inline(always)]
    fn from(outcome: Outcome) -> Self {
        Self { outcome, way: Way::None }
    }
}

/// A verdict in one register, for what functions that are not inlined return: the verifier does not allow results by
/// pointers into the caller's stack, and the compiler spills the payload that an error does not have as a register that
/// nobody has written, which it does not allow either.
#[derive(Clone, Copy)]
#[repr(transparent)]
#[must_use]
pub(crate) struct PackedVerdict(u64);

mod kind {
    pub(super) const NONE: u64 = 0;
    pub(super) const INTERFACE: u64 = 1;
    pub(super) const NEIGHBOUR: u64 = 2;
    pub(super) const RESET: u64 = 3;
    pub(super) const PORT_UNREACHABLE: u64 = 4;
    pub(super) const FRAGMENTATION_NEEDED: u64 = 5;
    pub(super) const INWARD: u64 = 6;
    pub(super) const BEHIND: u64 = 7;
}

impl PackedVerdict {
    #[inline(always)]
    pub(crate) fn outcome(self) -> Outcome {
        Outcome::from_number((self.0 >> 8) as u16)
    }

    #[inline(always)]
    pub(crate) fn way(self) -> Way {
        let value = (self.0 >> 32) as u32;
        match self.0 & 0xff {
            kind::INTERFACE => Way::Interface(value),
            kind::NEIGHBOUR => Way::Neighbour(value),
            kind::INWARD => Way::Inward(value),
            kind::BEHIND => Way::Behind(value),
            kind::RESET => Way::Back(Answer::Reset),
            kind::PORT_UNREACHABLE => Way::Back(Answer::PortUnreachable),
            kind::FRAGMENTATION_NEEDED => Way::Back(Answer::FragmentationNeeded(value as u16)),
            _ => Way::None,
        }
    }
}

impl From<Outcome> for PackedVerdict {
    #[inline(always)]
    fn from(outcome: Outcome) -> Self {
        Self(u64::from(outcome.number()) << 8 | kind::NONE)
    }
}

impl From<Verdict> for PackedVerdict {
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        let (kind, value) = match verdict.way {
            Way::None => (kind::NONE, 0),
            Way::Interface(interface) => (kind::INTERFACE, interface),
            Way::Neighbour(interface) => (kind::NEIGHBOUR, interface),
            Way::Inward(interface) => (kind::INWARD, interface),
            Way::Behind(interface) => (kind::BEHIND, interface),
            Way::Back(Answer::Reset) => (kind::RESET, 0),
            Way::Back(Answer::PortUnreachable) => (kind::PORT_UNREACHABLE, 0),
            Way::Back(Answer::FragmentationNeeded(mtu)) => (kind::FRAGMENTATION_NEEDED, u32::from(mtu)),
        };
        Self(u64::from(value) << 32 | u64::from(verdict.outcome.number()) << 8 | kind)
    }
}

impl From<Step> for PackedVerdict {
    #[inline(always)]
    fn from(step: Step) -> Self {
        match step {
            Ok(verdict) => verdict.into(),
            Err(outcome) => outcome.into(),
        }
    }
}

/// A step's result: the packet left by it, or why it cannot.
pub(crate) type Step = Result<Verdict, Outcome>;
