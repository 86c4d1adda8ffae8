//! Work that takes what others leave of the processors.

use std::io;

use anyhow::{Context, Result};

/// From now on this thread, and whatever it starts, gives way to all others.
pub fn give_way() -> Result<()> {
    const LAST: libc::c_int = 19;

    // SAFETY: the call takes numbers alone; 0 is the calling thread.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LAST) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()).context("cannot give way") }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::cmd::Cmd;

    #[test]
    fn what_such_a_thread_starts_gives_way_too() {
        let nice = || Cmd::new("nice").quiet().read();
        let before = nice().expect("nice answers");
        let started = thread::spawn(move || give_way().and_then(|()| nice()));
        assert_eq!(started.join().expect("no panic").expect("nice answers"), "19");
        assert_eq!(nice().expect("nice answers"), before, "the others do not");
    }
}
