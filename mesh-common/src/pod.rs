//! Userspace reads and writes keys and values as bytes; the orphan rule puts the promise that it may here.

use aya::Pod;

use crate::answer::{Answer, QuestionKey};
use crate::backend::{Backend, BackendCounters, LocalTask, Suspicion, TaskKey};
use crate::flow::{Flow, FlowKey, FragmentKey, FragmentPorts, Opening};
use crate::frontend::{Affinity, AffinityKey, Frontend, FrontendKey, SlotKey};
use crate::net::{Address, Port};
use crate::overlay::{VipFlowKey, VipKey, VipReply, VipReplyKey};
use crate::peer::Peer;
use crate::pressure::Pressure;
use crate::reply::{Reply, ReplyKey, TranslationKey};
use crate::route::RememberedRoute;
use crate::settings::Settings;
use crate::socket::{SocketFlow, SocketKey};
use crate::unread::UnreadPort;

macro_rules! pod {
    ($($name:ident),* $(,)?) => {
        $(
            // SAFETY: `repr(C)` or `repr(transparent)` over integers, every byte of padding is a named field, and any
            // bit pattern is a value.
            unsafe impl Pod for $name {}
        )*
    };
}

pod!(
    Address,
    Affinity,
    AffinityKey,
    Answer,
    Backend,
    BackendCounters,
    Flow,
    FlowKey,
    FragmentKey,
    FragmentPorts,
    Frontend,
    FrontendKey,
    LocalTask,
    Opening,
    Peer,
    Port,
    Pressure,
    QuestionKey,
    RememberedRoute,
    Reply,
    ReplyKey,
    Settings,
    SlotKey,
    SocketFlow,
    SocketKey,
    Suspicion,
    TaskKey,
    TranslationKey,
    UnreadPort,
    VipFlowKey,
    VipKey,
    VipReply,
    VipReplyKey,
);
