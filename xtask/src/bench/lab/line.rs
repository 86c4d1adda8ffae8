//! Packets at full speed: XDP frames that the kernel makes and sends for a program (`BPF_F_TEST_XDP_LIVE_FRAMES`), on one
//! processor. What a machine of the lab does with them is done there too, in the sender's own system call, so the
//! sender's time is all the time there is.

use std::{
    fs,
    io::Error,
    num::NonZeroU32,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use aya::{
    Ebpf, Pod,
    maps::{Array, PerCpuArray},
    programs::{
        Program, SchedClassifier, TcAttachType, TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode,
        tc::SchedClassifierLink,
    },
};
use mesh_tests::{
    cmd::Cmd,
    interrupt,
    lab::{FABRIC, FarEnd, Lab, Stranger},
};

use super::super::packet;

/// How many clients there are: ports of one address.
pub(super) const CLIENTS: u32 = 1000;
const FIRST_PORT: u32 = 20_000;
/// In one system call, and in a row without the machines doing anything: as drivers are asked by the kernel to do it.
const AT_ONCE: u32 = 1 << 16;
const BATCH: u32 = 64;
/// Ethernet, IPv4 and UDP headers and 18 bytes, which is the shortest that Ethernet carries.
const LENGTH: usize = 60;
/// Words of 16 bits that are restored of each packet.
const HEADER: usize = 22;
/// How often a run is tried of which more than so many percent were lost.
const ATTEMPTS: u32 = 8;
const TOLERANCE: f64 = 0.5;
/// Two interfaces of the fabric, one cable: what ends right after it was sent.
const SHORT: [&str; 2] = ["bench-short", "bench-end"];

/// Whom packets are sent to.
#[derive(Debug, Clone)]
pub(super) struct Destination {
    /// The machine, which is also the name of the fabric's end of its cable.
    pub(super) machine: String,
    pub(super) mac: [u8; 6],
    pub(super) address: [u8; 4],
    pub(super) port: u16,
}

/// How forwarded packets end when they are back in the fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// In the driver.
    Xdp,
    /// As soon as the kernel looks at them.
    Tc,
}

/// What was sent, what of it came to its end on the sender's processor, and what that spent on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) sent: u64,
    /// Another processor takes a part for a while, if it is at work on the cable when packets come.
    pub(super) arrived: u64,
    pub(super) seconds: f64,
}

impl Run {
    /// For each packet that arrived.
    pub(super) fn nanoseconds(self) -> f64 {
        self.seconds * 1e9 / self.arrived as f64
    }

    /// Of those that were sent, to another processor or altogether: then the time is not that of the packets that arrived.
    pub(super) fn percent_lost(self) -> f64 {
        100.0 * self.sent.saturating_sub(self.arrived) as f64 / self.sent as f64
    }
}

/// The sender, and the programs at the ends of its lines. The short line is removed when this is dropped.
pub(super) struct Line {
    ebpf: Ebpf,
}

impl Line {
    /// With the object in this folder.
    pub(super) fn new(objects: &Path) -> Result<Self> {
        let object = fs::read(objects.join("mesh-ebpf-bench")).context("no object of the benchmark")?;
        let mut line = Self { ebpf: Ebpf::load(&object)? };
        for name in ["line_begin_xdp", "line_end_xdp", "line_beyond_xdp", "line_back_xdp"] {
            line.xdp(name)?.load()?;
        }
        for name in ["line_beyond_tc", "line_back_tc"] {
            line.classifier(name)?.load()?;
        }
        cut_short_line();
        let [near, far] = SHORT;
        let links =
            format!("link add {near} type veth peer name {far}\nlink set {near} up\nlink set {far} up\n");
        Cmd::new("ip").args(["-n", FABRIC, "-batch", "-"]).quiet().read_fed(&links)?;
        within(&fabric(), || {
            let index = index(far)?;
            line.xdp("line_end_xdp")?.attach_to_if_index(index, XdpMode::Driver)?;
            Ok(())
        })?;
        Ok(line)
    }

    /// What sending costs when the packets end in the driver of the machine that they come to.
    pub(super) fn short(&mut self, to: &Destination, time: Duration) -> Result<Run> {
        within(&fabric(), || self.send(to, SHORT[0], time))
    }

    /// Has a machine forward packets.
    pub(super) fn through(&mut self, to: &Destination, end: End, time: Duration) -> Result<Run> {
        match end {
            End::Xdp => {
                let beyond = self.xdp("line_beyond_xdp")?.fd()?.try_clone()?;
                Lab::far_end(&to.machine, FarEnd::Other(beyond.as_fd()))?;
            }
            End::Tc => {
                Lab::far_end(&to.machine, FarEnd::Nothing)?;
                merge(&to.machine, false)?;
            }
        }
        let run = within(&fabric(), || {
            let _link =
                if end == End::Tc { Some(self.attach_tc("line_beyond_tc", &to.machine)?) } else { None };
            let mut run = self.send(to, &to.machine, time)?;
            for _ in 1..ATTEMPTS {
                if run.percent_lost() <= TOLERANCE {
                    break;
                }
                run = self.send(to, &to.machine, time)?;
            }
            Ok(run)
        });
        merge(&to.machine, true)?;
        Lab::far_end(&to.machine, FarEnd::Pass)?;
        run
    }

    /// As [`Line::through`], with a machine that sends everything back without looking anything up.
    pub(super) fn floor(
        &mut self,
        machine: &Stranger,
        to: &Destination,
        end: End,
        time: Duration,
    ) -> Result<Run> {
        match end {
            End::Xdp => {
                let link = within(&machine.namespace(), || {
                    let index = index("eth0")?;
                    let program = self.xdp("line_back_xdp")?;
                    let link = program.attach_to_if_index(index, XdpMode::Driver)?;
                    Ok(program.take_link(link)?)
                })?;
                let run = self.through(to, end, time);
                drop(link);
                run
            }
            End::Tc => {
                let link = within(&machine.namespace(), || self.attach_tc("line_back_tc", "eth0"))?;
                let run = self.through(to, end, time);
                drop(link);
                run
            }
        }
    }

    fn attach_tc(&mut self, program: &str, interface: &str) -> Result<SchedClassifierLink> {
        let program = self.classifier(program)?;
        let link = program.attach(interface, TcAttachType::Ingress)?;
        Ok(program.take_link(link)?)
    }

    fn send(&mut self, to: &Destination, interface: &str, time: Duration) -> Result<Run> {
        packet::stay_on_one_processor()?;
        let frame = frame(to);
        self.set("LINE_HEADER", header(&frame))?;
        self.set("LINE_SHAPE", [index(interface)?, FIRST_PORT, CLIENTS])?;
        let clock = Clock::here()?;
        let (begin, sent, arrived) = (clock.now()?, self.sent()?, self.arrived()?);
        while clock.now()?.saturating_sub(begin) < time {
            ensure!(!interrupt::happened(), "interrupted");
            self.send_some(&frame)?;
        }
        Ok(Run {
            sent: self.sent()? - sent,
            arrived: self.arrived()? - arrived,
            seconds: clock.now()?.saturating_sub(begin).as_secs_f64(),
        })
    }

    fn send_some(&mut self, frame: &[u8]) -> Result<()> {
        let attributes = TestRunAttrs::new().xdp_live_frames(BATCH);
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat: AT_ONCE,
            attrs: attributes,
            ..TestRunOptions::default()
        };
        self.xdp("line_begin_xdp")?.test_run(options).context("the kernel does not send frames")?;
        Ok(())
    }

    fn sent(&self) -> Result<u64> {
        let map = self.ebpf.map("LINE_SENT").context("there is no map LINE_SENT")?;
        Ok(Array::<_, u64>::try_from(map)?.get(&0, 0)?)
    }

    /// On this thread's processor.
    fn arrived(&self) -> Result<u64> {
        let map = self.ebpf.map("LINE_ARRIVED").context("there is no map LINE_ARRIVED")?;
        // SAFETY: it has no preconditions.
        let processor = usize::try_from(unsafe { libc::sched_getcpu() })?;
        let counts = PerCpuArray::<_, u64>::try_from(map)?.get(&0, 0)?;
        Ok(*counts.get(processor).context("an unknown processor")?)
    }

    fn set<V: Pod>(&mut self, name: &str, value: V) -> Result<()> {
        let map = self.ebpf.map_mut(name).with_context(|| format!("there is no map {name}"))?;
        Ok(Array::<_, V>::try_from(map)?.set(0, value, 0)?)
    }

    fn xdp(&mut self, name: &str) -> Result<&mut Xdp> {
        match self.ebpf.program_mut(name) {
            Some(Program::Xdp(program)) => Ok(program),
            _ => bail!("there is no program {name}"),
        }
    }

    fn classifier(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        match self.ebpf.program_mut(name) {
            Some(Program::SchedClassifier(program)) => Ok(program),
            _ => bail!("there is no program {name}"),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        cut_short_line();
    }
}

/// One that is not there is as good.
fn cut_short_line() {
    Cmd::new("ip").args(["-n", FABRIC, "link", "del", SHORT[0]]).succeeds();
}

/// Whether the fabric's end of a machine's cable merges what arrives, which takes time before anything is looked at.
fn merge(machine: &str, merge: bool) -> Result<()> {
    let state = if merge { "on" } else { "off" };
    Lab::client("ethtool").args(["-K", machine, "gro", state]).quiet().read().map(drop)
}

fn fabric() -> PathBuf {
    Path::new("/run/netns").join(FABRIC)
}

/// On a thread that is in this network namespace.
fn within<T: Send>(namespace: &Path, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = fs::File::open(namespace)?;
    let inside = || {
        // SAFETY: the file is open, and the call affects only this thread.
        let entered = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } == 0;
        ensure!(entered, "cannot enter a namespace: {}", Error::last_os_error());
        act()
    };
    thread::scope(|scope| scope.spawn(inside).join().map_err(|_| anyhow!("a thread panicked"))?)
}

/// Of an interface in this thread's namespace.
fn index(interface: &str) -> Result<u32> {
    let name = std::ffi::CString::new(interface)?;
    // SAFETY: the name ends with a zero byte, and the call does not keep it.
    let index = NonZeroU32::new(unsafe { libc::if_nametoindex(name.as_ptr()) });
    Ok(index.with_context(|| format!("there is no interface {interface}"))?.get())
}

/// What the processor of this thread has spent on it, and on the kernel's own thread that takes over there when there is too
/// much to do.
struct Clock {
    helper: PathBuf,
}

impl Clock {
    /// Of a thread that stays where it is.
    fn here() -> Result<Self> {
        // SAFETY: it has no preconditions.
        let name = format!("ksoftirqd/{}", unsafe { libc::sched_getcpu() });
        let is_helper = |process: &PathBuf| {
            fs::read_to_string(process.join("comm")).is_ok_and(|known| known.trim() == name)
        };
        let processes = fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
        let helper = processes.into_iter().find(is_helper).with_context(|| format!("there is no {name}"))?;
        Ok(Self { helper: helper.join("schedstat") })
    }

    fn now(&self) -> Result<Duration> {
        let text = fs::read_to_string(&self.helper)?;
        let nanoseconds = text.split(' ').next().unwrap_or_default().parse()?;
        Ok(packet::thread_time()? + Duration::from_nanos(nanoseconds))
    }
}

/// A datagram of the first client. Its checksums are right, and stay right when the source port is changed together with the
/// first two bytes of data.
fn frame(to: &Destination) -> [u8; LENGTH] {
    const CLIENT: [u8; 4] = [10, 99, 0, 254];
    const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xfe];
    const MARK: [u8; 4] = *b"bnch";
    let mut bytes = [0; LENGTH];
    bytes[..6].copy_from_slice(&to.mac);
    bytes[6..12].copy_from_slice(&CLIENT_MAC);
    bytes[12..14].copy_from_slice(&[0x08, 0]);
    let length = (LENGTH - 14) as u16;
    let [high, low] = length.to_be_bytes();
    bytes[14..26].copy_from_slice(&[0x45, 0, high, low, 0x12, 0x34, 0x40, 0, 64, 17, 0, 0]);
    bytes[26..30].copy_from_slice(&CLIENT);
    bytes[30..34].copy_from_slice(&to.address);
    let checksum = !sum(&bytes[14..34]);
    bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
    let port = FIRST_PORT as u16;
    for (at, word) in [(34, port), (36, to.port), (38, length - 20), (42, !port)] {
        bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
    }
    bytes[44..48].copy_from_slice(&MARK);
    // The pseudo header of RFC 768: addresses, protocol, length.
    let pseudo = [&bytes[26..34], &[0, 17], &(length - 20).to_be_bytes(), &bytes[34..]].concat();
    let checksum = !sum(&pseudo);
    bytes[40..42].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// The words as they lie in memory.
fn header(frame: &[u8; LENGTH]) -> [u16; HEADER] {
    std::array::from_fn(|place| u16::from_ne_bytes([frame[2 * place], frame[2 * place + 1]]))
}

/// RFC 1071.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: Destination =
        Destination { machine: String::new(), mac: [2; 6], address: [10, 99, 0, 3], port: 8397 };

    fn udp_sum(bytes: &[u8]) -> u16 {
        sum(&[&bytes[26..34], &[0, 17], &26_u16.to_be_bytes(), &bytes[34..]].concat())
    }

    #[test]
    fn checksums_hold_for_every_client() {
        let mut bytes = frame(&TO);
        assert_eq!([sum(&bytes[14..34]), udp_sum(&bytes)], [0xffff, 0xffff]);
        let port = FIRST_PORT as u16 + 777;
        bytes[34..36].copy_from_slice(&port.to_be_bytes());
        bytes[42..44].copy_from_slice(&(!port).to_be_bytes());
        assert_eq!(udp_sum(&bytes), 0xffff);
    }

    #[test]
    fn what_is_lost_did_not_arrive_and_took_time_all_the_same() {
        let run = Run { sent: 4000, arrived: 3000, seconds: 0.003 };
        assert_eq!([run.percent_lost(), run.nanoseconds()].map(|value| value.to_string()), ["25", "1000"]);
    }
}
