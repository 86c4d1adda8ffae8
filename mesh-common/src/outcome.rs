//! Every way a packet or a call can leave us: the index into `OUTCOMES`, and the reason in metrics and logs. The number of
//! a retired outcome is never used again.

macro_rules! outcomes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// Every way a packet or a call can leave us.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        #[must_use]
        pub enum Outcome {
            $($(#[$doc])* $name = $number,)*
        }

        impl Outcome {
            /// All of them, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its place in `OUTCOMES`.
            #[inline(always)]
            pub const fn number(self) -> u16 {
                self as u16
            }

            /// Its name in metrics and logs.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

outcomes! {
    /// Nobody published this port, or the packet is no IPv4: the kernel has it, unchanged.
    NotOurs = 0, "not_ours";
    /// Headers that do not add up: the kernel has it, unchanged, and will drop it if it is as bad as it looks.
    Malformed = 1, "malformed";
    /// From a client to a task on this node.
    Delivered = 2, "delivered";
    /// From a client, into the tunnel to the task's home node.
    Tunnelled = 3, "tunnelled";
    /// Out of the tunnel to a task on this node.
    DeliveredFromTunnel = 4, "delivered_from_tunnel";
    /// A task's answer to a client of this node, or straight to the client (`return=direct`).
    Replied = 5, "replied";
    /// A task's answer, into the tunnel to the entry node.
    ReplyTunnelled = 6, "reply_tunnelled";
    /// A task's answer, out of the tunnel to the client.
    RepliedFromTunnel = 7, "replied_from_tunnel";
    /// A task's answer, out of the tunnel to a process on this node.
    RepliedToNode = 8, "replied_to_node";
    /// No backend: the client was told so with a TCP RST.
    RefusedWithReset = 9, "refused_reset";
    /// No backend: the client was told so with an ICMP port unreachable.
    RefusedUnreachable = 10, "refused_unreachable";
    /// Too big for the tunnel: the sender was told the size that fits.
    TooBig = 11, "too_big";
    /// Dropped: a tunnel packet from an address that is no node of this Swarm.
    UnknownPeer = 12, "unknown_peer";
    /// Dropped: a tunnel packet for a task and port that are not published here.
    UnknownTask = 13, "unknown_task";
    /// Dropped: no hop left (TTL). A client was told so.
    HopLimit = 14, "hop_limit";
    /// Retired: where the kernel knows no way, the packet leaves by the interface its flow came in by.
    NoRoute = 15, "no_route";
    /// Dropped: the kernel would not let us change the packet.
    NotChangeable = 16, "not_changeable";
    /// Dropped: no free port to tell two flows of one client port apart.
    NoFreePort = 17, "no_free_port";
    /// A fragment whose first fragment has not passed: the kernel has it, it may be for a process of the node.
    UnknownFragment = 18, "unknown_fragment";
    /// Dropped: a RST of a flow nobody knows.
    UnknownReset = 19, "unknown_reset";
    /// Dropped: the flow table would not take the flow.
    FlowTableFull = 20, "flow_table_full";
    /// A process on this node was given a task on this node.
    SocketToTask = 21, "socket_to_task";
    /// A process on this node was given a task elsewhere.
    SocketToNode = 22, "socket_to_node";
    /// A process on this node was refused: no backend.
    SocketRefused = 23, "socket_refused";
    /// From a process on this node, into the tunnel to the task's home node.
    TunnelledFromNode = 24, "tunnelled_from_node";
    /// An ICMP error about a flow, towards its task.
    ErrorToTask = 25, "error_to_task";
    /// An ICMP error about a flow, towards its client.
    ErrorToClient = 26, "error_to_client";
    /// Dropped: docker_gwbridge or its task's place on it is gone.
    NoBridge = 27, "no_bridge";
    /// Dropped: what came out of the tunnel is no usable IPv4 packet.
    MalformedInside = 28, "malformed_inside";
    /// Dropped: a fragment out of the tunnel whose first fragment has not passed.
    LostFragment = 29, "lost_fragment";
    /// Dropped: an answer out of the tunnel whose source is no address of this node.
    UnknownFrontend = 30, "unknown_frontend";
    /// Dropped: a fragment too big for the tunnel; its sender was told when the first one came.
    TooBigDropped = 31, "too_big_dropped";
    /// Dropped: a later fragment for a frontend without backends; the first one has been answered.
    RefusedFragment = 32, "refused_fragment";
    /// From a task to a virtual address, on to the task that serves it.
    VipToTask = 33, "vip_to_task";
    /// From a task to the virtual address of its own service, back to itself.
    VipToSelf = 34, "vip_to_self";
    /// A task's answer, with the virtual address as its source again.
    VipReplied = 35, "vip_replied";
    /// Who has this virtual address? Answered.
    VipResolved = 36, "vip_resolved";
    /// A ping of a virtual address, answered.
    VipPinged = 37, "vip_pinged";
    /// An ICMP error about a flow through a virtual address, towards its caller.
    VipError = 38, "vip_error";
    /// A task's socket was given the agent's resolver in place of Docker's.
    SocketToResolver = 39, "socket_to_resolver";
    /// A task's socket was left with Docker's resolver, because the agent's gives no sign of life.
    ResolverSilent = 40, "resolver_silent";
    /// Another node's agent asked whether this dataplane is there: sent back to it.
    Probed = 41, "probed";
    /// Of a flow, beside the outcome of its packet: established, but there is no room for it among the established ones, so
    /// it stays where a flood could make it be forgotten.
    FlowUnprotected = 42, "flow_unprotected";
    /// A task's refusal of a client's SYN became that SYN again, for another backend.
    RefusalReplayed = 43, "refusal_replayed";
    /// Dropped: a task's refusal of a client's SYN; when the client sends that again, another backend gets it.
    RefusalSwallowed = 44, "refusal_swallowed";
    /// A container's question about a name, answered with what the agent has answered to it before.
    NameAnswered = 45, "name_answered";
    /// Dropped: for the tunnel's port, but sent neither by these programs nor by an agent.
    ForgedTunnel = 46, "forged_tunnel";
    /// Dropped: a tunnel packet of another node that came in by an uplink that does not lead to it.
    WrongUplink = 47, "wrong_uplink";
    /// Dropped: an answer out of the tunnel for a flow that another task has, or another node's.
    WrongSender = 48, "wrong_sender";
    /// Dropped: an answer out of the tunnel for a flow that nobody knows, and that goes to no client of a published port.
    UnknownAnswer = 49, "unknown_answer";
    /// Of a flow, beside the outcome of its packet: a SYN, or a segment of no known connection, among so many that it was given to a
    /// backend by its hash, and not remembered.
    SynNotKept = 50, "syn_not_kept";
    /// Dropped: a router between the nodes marked the tunnel packet as having met congestion, and the sender of what is inside
    /// does not understand such a mark (RFC 6040 §4.2).
    Congested = 51, "congested";
    /// Dropped: its sender was to be told no, but so many have been told so in this second that it was not.
    RejectionLimited = 52, "rejection_limited";
    /// Dropped: a container on docker_gwbridge spoke in the conversation of another one's task.
    ForgedSource = 53, "forged_source";
    /// Dropped: a tunnel packet of another node that has none of the cluster's cookies, though that node sends one.
    WrongCookie = 54, "wrong_cookie";
}

impl Outcome {
    /// Entries of `OUTCOMES`; some are spare, so that a new outcome does not change the map.
    pub const CAPACITY: u32 = 64;

    /// Whether the packet was thrown away.
    pub const fn is_drop(self) -> bool {
        matches!(
            self,
            Self::UnknownPeer
                | Self::UnknownTask
                | Self::HopLimit
                | Self::NoRoute
                | Self::NotChangeable
                | Self::NoFreePort
                | Self::UnknownReset
                | Self::FlowTableFull
                | Self::NoBridge
                | Self::MalformedInside
                | Self::LostFragment
                | Self::UnknownFrontend
                | Self::TooBigDropped
                | Self::RefusedFragment
                | Self::RefusalSwallowed
                | Self::ForgedTunnel
                | Self::WrongUplink
                | Self::WrongSender
                | Self::UnknownAnswer
                | Self::Congested
                | Self::RejectionLimited
                | Self::ForgedSource
                | Self::WrongCookie
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places_in_the_list() {
        for (place, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, place, "{}", outcome.as_str());
        }
        assert!(Outcome::ALL.len() <= Outcome::CAPACITY as usize);
    }
}
