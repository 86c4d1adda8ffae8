//! Docker's network namespaces on this node, by the names of their files.
//!
//! An overlay's namespace is `1-` and the first 10 characters of the network's id; the sandbox of its load balancer is
//! `lb_` and the first 9 (moby, daemon/libnetwork/osl and drivers/overlay).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use futures::StreamExt;
use inotify::{Inotify, WatchMask};
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch::Sender;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::{NodeView, netns_cookie};

/// How often the folder is read though nothing has been heard.
const ROUND: Duration = Duration::from_secs(1);
/// How long until a folder that cannot be read is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The namespaces that live, by name, and which ones they are: a network or a container that comes back gets another
/// namespace under the same name.
pub type Namespaces = BTreeMap<String, Identity>;

/// Device and inode of a namespace.
pub type Identity = (u64, u64);

/// Where an overlay's namespace is.
pub fn of_overlay(docker_run: &Path, network_id: &str) -> PathBuf {
    folder(docker_run).join(overlay_name(network_id))
}

/// Where the sandbox of an overlay's load balancer is.
pub fn of_balancer(docker_run: &Path, network_id: &str) -> PathBuf {
    let length = network_id.len().min(9);
    folder(docker_run).join(format!("lb_{}", &network_id[..length]))
}

/// Where a container's namespace with this name is.
pub fn of_sandbox(docker_run: &Path, name: &str) -> PathBuf {
    folder(docker_run).join(name)
}

/// Which namespace an overlay has, if it is among `namespaces`.
pub fn overlay_identity(namespaces: &Namespaces, network_id: &str) -> Option<Identity> {
    namespaces.get(&overlay_name(network_id)).copied()
}

/// Keeps `namespaces` what the folder says, for as long as the process lives.
pub async fn watch(docker_run: &Path, namespaces: &Sender<Arc<Namespaces>>) -> Infallible {
    let folder = folder(docker_run);
    loop {
        let Err(error) = follow(&folder, namespaces, ROUND).await;
        debug!("{} cannot be followed, trying again: {error:#}", folder.display());
        sleep(RETRY).await;
    }
}

/// Moves the calling thread into a network namespace.
pub fn enter(namespace: &Path) -> Result<()> {
    let file = File::open(namespace).with_context(|| format!("open {}", namespace.display()))?;
    // SAFETY: the descriptor is open for the call; only the calling thread changes its namespace.
    let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    ensure!(result == 0, "enter {}: {}", namespace.display(), std::io::Error::last_os_error());
    Ok(())
}

/// The id that the calling thread's network namespace has for another one, which it has from the moment that an interface was
/// moved there; `None` if it has none, or one that is larger than any that the kernel gives out by itself soon.
pub async fn id_of(namespace: &Path) -> Result<Option<u16>> {
    let file = File::open(namespace).with_context(|| format!("open {}", namespace.display()))?;
    let (connection, mut handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let mut question = NsidMessage::default();
    question.attributes.push(NsidAttribute::Fd(file.as_raw_fd().cast_unsigned()));
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(question));
    message.header.flags = NLM_F_REQUEST;
    let answer = handle.request(message)?.next().await;
    connection.abort();
    let payload = answer.context("no answer")?.payload;
    if let NetlinkPayload::Error(error) = &payload {
        return Err(error.to_io().into());
    }
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(answer)) = payload else {
        anyhow::bail!("the kernel answered with {payload:?}");
    };
    let mut ids = answer
        .attributes
        .iter()
        .filter_map(|attribute| if let NsidAttribute::Id(id) = attribute { Some(*id) } else { None });
    Ok(ids.next().and_then(|id| u16::try_from(id).ok()))
}

/// What a look into a namespace shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub cookie: u64,
    pub view: NodeView,
}

/// Looks into a namespace, by a thread that goes there. Takes about a millisecond.
pub fn visit(namespace: &Path) -> Result<Seen> {
    let namespace = namespace.to_owned();
    let visitor = thread::spawn(move || {
        enter(&namespace)?;
        let cookie = netns_cookie().context("ask for the namespace's cookie")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let view = runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            tokio::spawn(connection);
            timeout(Duration::from_secs(1), super::read(&handle)).await.context("no answer")?
        })?;
        Ok(Seen { cookie, view })
    });
    visitor.join().map_err(|_| anyhow!("the visitor of a namespace panicked"))?
}

/// A new file makes an event of its folder; a namespace that is mounted on a file that is there already makes none, and Docker
/// leaves the files of dead namespaces lying about for a while. But it changes this process's mounts, and that can be
/// waited for (`proc_pid_mountinfo(5)`).
async fn follow(folder: &Path, namespaces: &Sender<Arc<Namespaces>>, round: Duration) -> Result<Infallible> {
    let mounts = File::open("/proc/self/mountinfo").context("open /proc/self/mountinfo")?;
    // SAFETY: the file is owned by what is made of it, and nothing else closes it.
    let mounts = unsafe { AsyncFd::register_with_interest(mounts, Interest::PRIORITY) };
    let mounts = mounts.context("wait for mounts")?;
    let inotify = Inotify::init().context("ask for inotify")?;
    inotify
        .watches()
        .add(folder, WatchMask::CREATE | WatchMask::DELETE | WatchMask::ONLYDIR)
        .with_context(|| format!("watch {}", folder.display()))?;
    let mut events = inotify.into_event_stream(vec![0; 4096])?;
    loop {
        let now = read(folder)?;
        namespaces.send_if_modified(|known| {
            let differs = **known != now;
            if differs {
                *known = Arc::new(now);
            }
            differs
        });
        tokio::select! {
            event = events.next() => ensure!(event.is_some(), "inotify ended"),
            changed = mounts.ready(Interest::PRIORITY) => changed.context("wait for mounts")?.clear_ready(),
            () = sleep(round) => {}
        }
    }
}

fn read(folder: &Path) -> Result<Namespaces> {
    let device = fs::metadata(folder).with_context(|| format!("look at {}", folder.display()))?.dev();
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let living = entries.flatten().filter_map(|entry| {
        // Through the mount: the entry's own metadata would be the file's beneath it.
        let metadata = fs::metadata(entry.path()).ok()?;
        let name = entry.file_name().into_string().ok()?;
        (metadata.dev() != device).then_some((name, (metadata.dev(), metadata.ino())))
    });
    Ok(living.collect())
}

fn folder(docker_run: &Path) -> PathBuf {
    docker_run.join("netns")
}

fn overlay_name(network_id: &str) -> String {
    let length = network_id.len().min(10);
    format!("1-{}", &network_id[..length])
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::ptr;

    use super::*;

    #[test]
    fn names_are_as_docker_makes_them() {
        let run = Path::new("/var/run/docker");
        assert_eq!(of_overlay(run, "p0puptihcq9abc"), Path::new("/var/run/docker/netns/1-p0puptihcq"));
        assert_eq!(of_balancer(run, "p0puptihcq9abc"), Path::new("/var/run/docker/netns/lb_p0puptihc"));
        let namespaces = Namespaces::from([("1-p0puptihcq".to_owned(), (4, 7))]);
        assert_eq!(overlay_identity(&namespaces, "p0puptihcq9abc"), Some((4, 7)));
        assert_eq!(overlay_identity(&namespaces, "q0puptihcq9abc"), None);
    }

    #[tokio::test]
    async fn a_namespace_that_no_interface_was_moved_to_has_no_id_here() {
        let own = thread::spawn(|| {
            // SAFETY: only the calling thread changes its namespace.
            let made = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
            // SAFETY: the call has no arguments.
            let thread = unsafe { libc::gettid() };
            made.then(|| File::open(format!("/proc/self/task/{thread}/ns/net")).unwrap())
        });
        let Some(file) = own.join().unwrap() else { panic!("this test takes the right to make namespaces") };
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        assert_eq!(id_of(Path::new(&path)).await.unwrap(), None);
        assert!(id_of(Path::new("/proc/self/no-such-file")).await.is_err());
        assert!(id_of(Path::new("/proc/self/status")).await.is_err());
    }

    /// Something that is mounted on a file, until the end of a test.
    struct Mounted(CString);

    impl Mounted {
        fn on(file: &Path) -> Self {
            let place = CString::new(file.as_os_str().as_bytes()).unwrap();
            let namespace = c"/proc/self/ns/net".as_ptr();
            // SAFETY: both are paths that end with a zero byte; a bind mount takes neither a type nor data.
            let result =
                unsafe { libc::mount(namespace, place.as_ptr(), ptr::null(), libc::MS_BIND, ptr::null()) };
            assert_eq!(result, 0, "this test takes the right to mount");
            Self(place)
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            // SAFETY: it is a path that ends with a zero byte.
            unsafe { libc::umount2(self.0.as_ptr(), libc::MNT_DETACH) };
        }
    }

    #[tokio::test]
    async fn a_namespace_that_comes_to_a_file_that_is_there_is_noticed_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("58152564bc28");
        fs::write(&file, "").unwrap();
        let (sender, mut known) = tokio::sync::watch::channel(Arc::default());
        let path = folder.path().to_owned();
        let following = tokio::spawn(async move { follow(&path, &sender, Duration::from_hours(1)).await });
        let mut names = async |count| {
            let wanted = known.wait_for(|known: &Arc<Namespaces>| known.len() == count);
            timeout(Duration::from_secs(20), wanted).await.expect("it is noticed").unwrap().len()
        };
        // The first look at the folder may come before or after it: there will be another.
        tokio::task::yield_now().await;
        for _ in 0..5 {
            let mounted = Mounted::on(&file);
            assert_eq!(names(1).await, 1);
            drop(mounted);
            assert_eq!(names(0).await, 0);
        }
        following.abort();
    }

    #[test]
    fn a_file_without_a_namespace_on_it_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("58152564bc28"), "").unwrap();
        assert_eq!(read(folder.path()).unwrap(), Namespaces::new());
    }
}
