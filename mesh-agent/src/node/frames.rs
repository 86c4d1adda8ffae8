//! Which uplinks take what XDP sends to them from other ones. Linux tells since 6.3, by the family `netdev` of generic netlink
//! (linux/netdev.h); before, it is none.

use std::io::{self, Error, ErrorKind};

use mesh_common::settings::FRAME_TAKERS;
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use rtnetlink::packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla, NlasIterator,
    Parseable, ParseableParametrized, parse_u32, parse_u64,
};
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{Socket, SocketAddr};

use super::{Interface, LinkLayer};

/// `NETDEV_XDP_ACT_NDO_XMIT`. Some drivers have it only while an XDP program is on the interface, a veth while there is one
/// at its other end.
const TAKES_FRAMES: u64 = 4;

/// Their indices, and 0 in the other places. There is nothing to be sent from one to the other where there is only one.
pub fn frame_takers(uplinks: &[Interface]) -> io::Result<[u32; FRAME_TAKERS]> {
    let mut takers = [0; FRAME_TAKERS];
    if uplinks.len() > 1 {
        // Frames are what XDP sends.
        let uplinks = uplinks.iter().filter(|uplink| uplink.link_layer != LinkLayer::None);
        takers.iter_mut().zip(among(uplinks)?).for_each(|(place, index)| *place = index);
    }
    Ok(takers)
}

fn among<'a>(uplinks: impl Iterator<Item = &'a Interface>) -> io::Result<Vec<u32>> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let name = GenlCtrlAttrs::FamilyName(Device::family_name().into());
    let request = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![name] };
    let Some(answer) = ask(&socket, GenlMessage::from_payload(request))? else { return Ok(Vec::new()) };
    let id = |attribute| if let GenlCtrlAttrs::FamilyId(id) = attribute { Some(id) } else { None };
    let id = answer.nlas.into_iter().find_map(id);
    let id = id.ok_or_else(|| Error::new(ErrorKind::InvalidData, "a family without an id"))?;
    let mut takers = Vec::new();
    for uplink in uplinks {
        let mut request = GenlMessage::from_payload(Device { index: uplink.index, ..Device::default() });
        request.set_resolved_family_id(id);
        // Gone meanwhile, if there is no answer.
        if ask(&socket, request)?.is_some_and(|device| device.features & TAKES_FRAMES != 0) {
            takers.push(uplink.index);
        }
    }
    Ok(takers)
}

/// The kernel's answer; `None` if it does not know what it is asked for.
fn ask<T>(socket: &Socket, request: GenlMessage<T>) -> io::Result<Option<T>>
where
    T: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + std::fmt::Debug,
{
    let mut request = NetlinkMessage::from(request);
    request.header.flags = NLM_F_REQUEST;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<GenlMessage<T>>::deserialize(&answer)
        .map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
    if let NetlinkPayload::InnerMessage(message) = answer.payload {
        return Ok(Some(message.payload));
    }
    let NetlinkPayload::Error(error) = answer.payload else {
        return Err(Error::new(ErrorKind::InvalidData, "neither an answer nor an error"));
    };
    let error = error.to_io();
    let is_unknown = matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV));
    if is_unknown { Ok(None) } else { Err(error) }
}

/// What the kernel says of a device: of `NETDEV_CMD_DEV_GET` and its answer.
#[derive(Debug, Default)]
struct Device {
    index: u32,
    features: u64,
}

impl Device {
    const GET: u8 = 1;
    const INDEX: u16 = 1;
    const XDP_FEATURES: u16 = 3;

    fn question(&self) -> [DefaultNla; 1] {
        [DefaultNla::new(Self::INDEX, self.index.to_ne_bytes().to_vec())]
    }
}

impl GenlFamily for Device {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        Self::GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Device {
    fn buffer_len(&self) -> usize {
        self.question().as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.question().as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(bytes: &[u8], _header: GenlHeader) -> Result<Self, DecodeError> {
        let mut device = Self::default();
        for attribute in NlasIterator::new(bytes) {
            let attribute = DefaultNla::parse(&attribute?)?;
            let mut value = vec![0; attribute.value_len()];
            attribute.emit_value(&mut value);
            match attribute.kind() {
                Self::INDEX => device.index = parse_u32(&value)?,
                Self::XDP_FEATURES => device.features = parse_u64(&value)?,
                _ => {}
            }
        }
        Ok(device)
    }
}
