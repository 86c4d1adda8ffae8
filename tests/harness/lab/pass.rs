//! An XDP program that passes every packet, for the fabric's end of a cable. What XDP sends by one end of a veth lies there
//! until the other end is woken up, and that is done only if it has a program too (Linux, drivers/net/veth.c,
//! `veth_xdp_flush`).

use std::{
    ffi::CString,
    fs::File,
    io::Error,
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};

/// From `linux/bpf.h`.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TYPE_XDP: u32 = 6;
/// `r0 = XDP_PASS`, `exit`.
const PROGRAM: [u64; 2] = [0x2_0000_00b7, 0x95];
/// From `linux/if_link.h`.
const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_FLAGS: u16 = 3;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// What the driver of the fabric's end of a cable runs on packets that arrive there.
#[derive(Debug, Clone, Copy)]
pub enum FarEnd<'a> {
    Nothing,
    Pass,
    /// Another XDP program, loaded.
    Other(BorrowedFd<'a>),
}

/// Puts a program on an interface of a namespace, in place of what is there.
pub(super) fn set(namespace: &str, interface: &str, program: FarEnd<'_>) -> Result<()> {
    let home = File::open(namespace).with_context(|| format!("cannot open {namespace}"))?;
    let name = CString::new(interface)?;
    let pass = if matches!(program, FarEnd::Pass) { Some(load()?) } else { None };
    let descriptor = match (&pass, program) {
        (Some(pass), _) => pass.as_raw_fd(),
        (None, FarEnd::Other(program)) => program.as_raw_fd(),
        (None, _) => -1,
    };
    // A namespace is a thread's.
    let there = thread::spawn(move || -> Result<()> {
        // SAFETY: the file is open, and the call affects only this thread; the name ends with a zero byte.
        let index = unsafe {
            ensure!(libc::setns(home.as_raw_fd(), libc::CLONE_NEWNET) == 0, "{}", Error::last_os_error());
            libc::if_nametoindex(name.as_ptr())
        };
        ensure!(index != 0, "there is no such interface");
        change(index, descriptor)
    });
    let done = there.join().map_err(|_| anyhow!("a thread panicked"))?;
    done.with_context(|| format!("cannot change the XDP program of {interface}"))
}

fn load() -> Result<OwnedFd> {
    let license = c"GPL";
    let mut attributes = [0_u64; 16];
    attributes[0] = u64::from(BPF_PROG_TYPE_XDP) | (PROGRAM.len() as u64) << 32;
    attributes[1] = PROGRAM.as_ptr() as u64;
    attributes[2] = license.as_ptr() as u64;
    // SAFETY: the attributes are as long as they are said to be; what they point to lives through the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, attributes.as_ptr(), size_of_val(&attributes)) };
    ensure!(result >= 0, "the kernel does not take it: {}", Error::last_os_error());
    // SAFETY: it is a descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(result)?) })
}

/// Asks the kernel by rtnetlink; a negative descriptor is for no program.
fn change(interface: u32, program: RawFd) -> Result<()> {
    let attribute = |kind: u16, value: &[u8]| {
        let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes
    };
    let descriptor = attribute(IFLA_XDP_FD, &program.to_ne_bytes());
    let flags = attribute(IFLA_XDP_FLAGS, &XDP_FLAGS_DRV_MODE.to_ne_bytes());
    let nested = attribute(IFLA_XDP | libc::NLA_F_NESTED as u16, &[descriptor, flags].concat());
    // `struct ifinfomsg`: family, padding, type; index; flags; what changes of them.
    let about = [[0; 4], interface.to_ne_bytes(), [0; 4], [0; 4]].concat();
    let length = 16 + about.len() + nested.len();
    let mut message = (length as u32).to_ne_bytes().to_vec();
    message.extend(libc::RTM_SETLINK.to_ne_bytes());
    message.extend(((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(about);
    message.extend(nested);

    let mut answer = [0_u8; 1024];
    // SAFETY: both buffers are as long as they are said to be.
    let received = unsafe {
        let socket = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE);
        ensure!(socket >= 0, "{}", Error::last_os_error());
        let socket = OwnedFd::from_raw_fd(socket);
        let sent = libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0);
        ensure!(sent >= 0, "{}", Error::last_os_error());
        libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0)
    };
    ensure!(received >= 20, "{}", Error::last_os_error());
    let mut number = [0; size_of::<i32>()];
    number.copy_from_slice(&answer[16..20]);
    match i32::from_ne_bytes(number) {
        0 => Ok(()),
        error => Err(Error::from_raw_os_error(-error).into()),
    }
}
