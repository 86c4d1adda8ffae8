//! What is to become of a packet: decided by the steps, carried out by `bin/tc.rs` and `bin/xdp.rs`.

use mesh_common::outcome::Outcome;

use crate::verifier::{Pack, Packed, outcome_in};

/// An outcome, and where the packet goes if it goes anywhere.
#[derive(Clone, Copy)]
#[must_use]
pub struct Verdict {
    pub outcome: Outcome,
    pub redirect: Redirect,
}

/// How a packet leaves, in the kernel's terms.
#[derive(Clone, Copy)]
pub enum Redirect {
    /// It does not: passed or dropped, as the outcome says.
    None,
    /// Out of this interface, with the hardware addresses that it has.
    Interface(u32),
    /// Out of this interface; the kernel fills in the hardware addresses.
    Neighbour(u32),
    /// In by this interface, as if it had just been received.
    Ingress(u32),
    /// In by the other end of this interface, in another namespace, as if it had just been received there.
    Peer(u32),
    /// It becomes the answer to its sender, and goes back the way it came.
    Back(Rejection),
}

/// What a sender is told instead of being served.
#[derive(Clone, Copy)]
pub enum Rejection {
    /// TCP RST.
    Reset,
    /// ICMP port unreachable.
    PortUnreachable,
    /// ICMP time exceeded.
    TimeExceeded,
    /// ICMP fragmentation needed, with the size that fits.
    FragmentationNeeded(u16),
}

impl From<(Outcome, Redirect)> for Verdict {
    #[inline(always)]
    fn from((outcome, redirect): (Outcome, Redirect)) -> Self {
        Self { outcome, redirect }
    }
}

impl From<Outcome> for Verdict {
    #[inline(always)]
    fn from(outcome: Outcome) -> Self {
        Self { outcome, redirect: Redirect::None }
    }
}

/// A verdict in one register.
pub type PackedVerdict = Packed<Verdict>;

mod kind {
    pub(super) const NONE: u64 = 0;
    pub(super) const INTERFACE: u64 = 1;
    pub(super) const NEIGHBOUR: u64 = 2;
    pub(super) const RESET: u64 = 3;
    pub(super) const PORT_UNREACHABLE: u64 = 4;
    pub(super) const FRAGMENTATION_NEEDED: u64 = 5;
    pub(super) const INGRESS: u64 = 6;
    pub(super) const PEER: u64 = 7;
    pub(super) const TIME_EXCEEDED: u64 = 9;
    /// No verdict.
    pub(super) const GO_ON: u64 = 8;
}

impl Pack for Rejection {
    #[inline(always)]
    fn pack(self) -> u64 {
        match self {
            Self::Reset => kind::RESET,
            Self::PortUnreachable => kind::PORT_UNREACHABLE,
            Self::TimeExceeded => kind::TIME_EXCEEDED,
            Self::FragmentationNeeded(mtu) => kind::FRAGMENTATION_NEEDED | u64::from(mtu) << 8,
        }
    }

    #[inline(always)]
    unsafe fn unpack(word: u64) -> Self {
        match word & 0xff {
            kind::RESET => Self::Reset,
            kind::PORT_UNREACHABLE => Self::PortUnreachable,
            kind::TIME_EXCEEDED => Self::TimeExceeded,
            _ => Self::FragmentationNeeded((word >> 8) as u16),
        }
    }
}

impl Pack for Verdict {
    #[inline(always)]
    fn pack(self) -> u64 {
        let (kind, value) = match self.redirect {
            Redirect::None => (kind::NONE, 0),
            Redirect::Interface(interface) => (kind::INTERFACE, interface),
            Redirect::Neighbour(interface) => (kind::NEIGHBOUR, interface),
            Redirect::Ingress(interface) => (kind::INGRESS, interface),
            Redirect::Peer(interface) => (kind::PEER, interface),
            Redirect::Back(Rejection::Reset) => (kind::RESET, 0),
            Redirect::Back(Rejection::PortUnreachable) => (kind::PORT_UNREACHABLE, 0),
            Redirect::Back(Rejection::TimeExceeded) => (kind::TIME_EXCEEDED, 0),
            Redirect::Back(Rejection::FragmentationNeeded(mtu)) => {
                (kind::FRAGMENTATION_NEEDED, u32::from(mtu))
            }
        };
        u64::from(value) << 32 | u64::from(self.outcome.number()) << 8 | kind
    }

    #[inline(always)]
    unsafe fn unpack(word: u64) -> Self {
        // SAFETY: `pack` has put the number there.
        Self { outcome: unsafe { outcome_in(word >> 8) }, redirect: redirect_in(word) }
    }
}

#[inline(always)]
fn redirect_in(word: u64) -> Redirect {
    let value = (word >> 32) as u32;
    match word & 0xff {
        kind::INTERFACE => Redirect::Interface(value),
        kind::NEIGHBOUR => Redirect::Neighbour(value),
        kind::INGRESS => Redirect::Ingress(value),
        kind::PEER => Redirect::Peer(value),
        kind::RESET => Redirect::Back(Rejection::Reset),
        kind::PORT_UNREACHABLE => Redirect::Back(Rejection::PortUnreachable),
        kind::TIME_EXCEEDED => Redirect::Back(Rejection::TimeExceeded),
        kind::FRAGMENTATION_NEEDED => Redirect::Back(Rejection::FragmentationNeeded(value as u16)),
        _ => Redirect::None,
    }
}

/// One part at a time: of both at once the compiler keeps the payload that a redirect does not have in a register that nobody has
/// written.
impl PackedVerdict {
    #[inline(always)]
    pub fn outcome(self) -> Outcome {
        // SAFETY: `pack` has put the number there.
        unsafe { outcome_in(self.word() >> 8) }
    }

    #[inline(always)]
    pub fn redirect(self) -> Redirect {
        redirect_in(self.word())
    }
}

impl From<Outcome> for PackedVerdict {
    #[inline(always)]
    fn from(outcome: Outcome) -> Self {
        Verdict::from(outcome).into()
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

/// What a step says that need not be a packet's last one.
#[derive(Clone, Copy)]
#[must_use]
pub enum Next {
    /// The step that comes after it has the packet.
    GoOn,
    Done(Verdict),
}

pub type PackedNext = Packed<Next>;

impl Pack for Next {
    #[inline(always)]
    fn pack(self) -> u64 {
        match self {
            Self::GoOn => kind::GO_ON,
            Self::Done(verdict) => verdict.pack(),
        }
    }

    #[inline(always)]
    unsafe fn unpack(word: u64) -> Self {
        // SAFETY: any other word is a verdict's.
        if word == kind::GO_ON { Self::GoOn } else { Self::Done(unsafe { Verdict::unpack(word) }) }
    }
}

impl PackedNext {
    /// The verdict, if there is one.
    #[inline(always)]
    pub fn done(self) -> Option<PackedVerdict> {
        // SAFETY: any other word is a verdict's.
        if self.word() == kind::GO_ON { None } else { Some(unsafe { Packed::of_word(self.word()) }) }
    }
}

impl From<Outcome> for PackedNext {
    #[inline(always)]
    fn from(outcome: Outcome) -> Self {
        Next::Done(outcome.into()).into()
    }
}

impl From<Step> for PackedNext {
    #[inline(always)]
    fn from(step: Step) -> Self {
        match step {
            Ok(verdict) => Next::Done(verdict).into(),
            Err(outcome) => outcome.into(),
        }
    }
}

impl From<Result<Next, Outcome>> for PackedNext {
    #[inline(always)]
    fn from(next: Result<Next, Outcome>) -> Self {
        next.unwrap_or_else(|outcome| Next::Done(outcome.into())).into()
    }
}

/// Says at XDP that the packet is TC's, as it came: TC decides, and counts it.
pub const LEAVE_TO_TC: Outcome = Outcome::NotOurs;

/// A step's result: the packet left by it, or why it cannot.
pub type Step = Result<Verdict, Outcome>;
