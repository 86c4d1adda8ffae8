//! Telling a sender no, at once: RST, port unreachable, fragmentation needed, time exceeded.

use mesh_common::outcome::Outcome;
use mesh_common::tcp::flag;

use crate::hook::Hook;
use crate::packet::rewrite::icmp::{Complaint, into_error};
use crate::packet::{Fragment, Packet, rewrite};
use crate::tables::pressure;
use crate::verdict::{Redirect, Rejection, Step};
use crate::verifier::Packed;

/// For a client whose flow has no backend.
#[inline(always)]
pub(crate) fn no_backend(packet: &Packet) -> Step {
    // Of a fragmented packet only the first fragment is answered (RFC 1122 §3.2.2); the others have no header that could be.
    if packet.fragment == Fragment::Later {
        return Err(Outcome::RefusedFragment);
    }
    if packet.is_tcp() {
        // A RST is never answered (RFC 9293 §3.10.7.1).
        if packet.tcp_flags & flag::RST != 0 {
            return Err(Outcome::UnknownReset);
        }
        return Ok((Outcome::RefusedWithReset, Redirect::Back(Rejection::Reset)).into());
    }
    Ok((Outcome::RefusedUnreachable, Redirect::Back(Rejection::PortUnreachable)).into())
}

/// For the sender of a packet that has no hop left to its task.
#[inline(always)]
pub(crate) fn hop_limit(packet: &Packet) -> Step {
    if packet.fragment == Fragment::Later {
        return Err(Outcome::HopLimit);
    }
    Ok((Outcome::HopLimit, Redirect::Back(Rejection::TimeExceeded)).into())
}

/// For the sender of a packet that does not fit into the tunnel.
#[inline(always)]
pub(crate) fn too_big(packet: &Packet, mtu: u16) -> Step {
    if packet.fragment == Fragment::Later {
        return Err(Outcome::TooBigDropped);
    }
    Ok((Outcome::TooBig, Redirect::Back(Rejection::FragmentationNeeded(mtu))).into())
}

/// Makes the packet its own rejection, unless too many have been rejected lately.
#[inline(never)]
pub fn write<H: Hook>(frame: &H, packet: &Packet, rejection: Packed<Rejection>) -> Result<(), Outcome> {
    let rejection = rejection.unpack();
    if !pressure::may_tell(matches!(rejection, Rejection::Reset), packet.now) {
        return Err(Outcome::RejectionLimited);
    }
    match rejection {
        Rejection::Reset => rewrite::tcp::into_reset(frame, packet),
        Rejection::PortUnreachable => into_error(frame, packet, Complaint::PORT_UNREACHABLE, 0),
        Rejection::TimeExceeded => into_error(frame, packet, Complaint::TIME_EXCEEDED, 0),
        Rejection::FragmentationNeeded(mtu) => {
            into_error(frame, packet, Complaint::FRAGMENTATION_NEEDED, mtu)
        }
    }
}
