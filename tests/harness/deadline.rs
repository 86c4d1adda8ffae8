//! Programs that do not end: they are killed, so that what hangs fails one step and does not hold up all others.

use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Output},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::wait;

/// Waits for a program's end and for what it has written. One that takes longer is killed with all that it has started.
pub(crate) fn finish(child: Child, limit: Option<Duration>, line: &str) -> Result<Output> {
    let pid = i32::try_from(child.id())?;
    let Some(limit) = limit.map(|limit| limit * wait::patience()) else {
        return child.wait_with_output().with_context(|| format!("cannot wait for `{line}`"));
    };
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(child.wait_with_output()));
    let Ok(output) = told.recv_timeout(limit) else {
        kill_all(pid);
        bail!("`{line}` has not ended within {limit:?} and was killed")
    };
    output.with_context(|| format!("cannot wait for `{line}`"))
}

/// Kills a process and its descendants; a `nsenter` would leave behind what it has started.
fn kill_all(first: i32) {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // Behind the name in brackets: the state and the parent.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        children.entry(parent.unwrap_or_default()).or_default().push(pid);
    }
    let mut doomed = vec![first];
    while let Some(pid) = doomed.pop() {
        doomed.extend(children.get(&pid).into_iter().flatten());
        // SAFETY: `kill` takes two integers; the process is this one's child, not yet waited for, or a child's.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use anyhow::ensure;

    use crate::{cmd::Cmd, wait};

    #[test]
    fn what_does_not_end_is_killed_with_what_it_has_started() {
        let file = std::env::temp_dir().join(format!("mesh-deadline-{}", std::process::id()));
        let script = r#"sleep 600 & echo $! >"$0"; wait"#;
        let cmd = Cmd::new("sh").args(["-c", script]).arg(&file).quiet();
        let error = cmd.within(Duration::from_millis(300)).read().unwrap_err().to_string();
        let sleep: i32 = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        fs::remove_file(&file).unwrap();
        assert!(error.contains("has not ended within 300ms") && error.contains("sleep 600"), "{error}");
        wait::until("its child is dead", Duration::from_secs(10), Duration::from_millis(10), || {
            let state = fs::read_to_string(format!("/proc/{sleep}/stat")).unwrap_or_default();
            ensure!(state.is_empty() || state.contains(") Z "), "{state}");
            Ok(())
        })
        .unwrap();
    }
}
