//! Running other programs: what is run is shown, and a failure names the whole command line.

use std::{
    env,
    ffi::OsStr,
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{deadline::finish, paths};

/// How long a command may take whose output is waited for: far longer than any should.
const LIMIT: Duration = Duration::from_mins(2);

/// A command that is printed before it runs and reported whole when it fails.
#[derive(Debug)]
pub struct Cmd {
    inner: Command,
    quiet: bool,
    /// How long it may take where its output is waited for.
    limit: Option<Duration>,
    /// What it says when it only has to be run again.
    again: Option<&'static str>,
    /// What to show in place of the program and the arguments given so far, and how many of these there were.
    shown: Option<(String, usize)>,
}

impl Cmd {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self::from(Command::new(program))
    }

    /// `cargo subcommand`, in the workspace's folder, whoever has started this process, with what Cargo.lock says. What another cargo has told it about itself is taken
    /// back: a crate whose build depends on that (`ring`, on `CARGO_PKG_NAME`) would be built anew for each who asks.
    pub fn cargo(subcommand: &str) -> Self {
        let told = |key: &OsStr| {
            let key = key.to_string_lossy();
            key.starts_with("CARGO_PKG_") || key.starts_with("CARGO_MANIFEST_")
        };
        let mut cargo = Self::new("cargo").args([subcommand, "--locked"]).dir(paths::root());
        // What it runs may take any time.
        cargo.limit = None;
        for (key, _) in env::vars_os().filter(|(key, _)| told(key)) {
            cargo.inner.env_remove(key);
        }
        cargo
    }

    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.inner.arg(arg);
        self
    }

    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.inner.args(args);
        self
    }

    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(key, value);
        self
    }

    #[must_use]
    pub fn env_remove(mut self, key: &str) -> Self {
        self.inner.env_remove(key);
        self
    }

    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.inner.current_dir(dir);
        self
    }

    /// Does not print the command: for questions, and for steps that would only be noise.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Kills it if it takes longer, in place of the two minutes that a command has whose output is waited for.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// When it fails and says this, [`Cmd::read`] runs it again, for a while.
    #[must_use]
    pub fn again_when(mut self, said: &'static str) -> Self {
        self.again = Some(said);
        self
    }

    /// Shows this in place of the command as it stands: for a long way into a namespace. Arguments added later are shown.
    #[must_use]
    pub fn shown_as(mut self, text: String) -> Self {
        self.shown = Some((text, self.inner.get_args().len()));
        self
    }

    /// Runs it on this terminal; anything but success is an error.
    pub fn run(mut self) -> Result<()> {
        let status = self.status()?;
        if !status.success() {
            bail!("`{}` ended with {status}", self.line());
        }
        Ok(())
    }

    /// Runs it on this terminal and tells how it ended.
    pub fn status(&mut self) -> Result<ExitStatus> {
        self.announce();
        let line = self.line();
        self.inner.status().with_context(|| format!("cannot run `{line}`"))
    }

    /// Runs it and returns what it wrote to its standard output, without the final newline.
    pub fn read(mut self) -> Result<String> {
        self.announce();
        let line = self.line();
        let mut tries_left = 20;
        loop {
            let output = self.finish(&line)?;
            if output.status.success() {
                return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
            }
            tries_left -= 1;
            if tries_left == 0 || !self.again.is_some_and(|again| said(&output).contains(again)) {
                bail!("`{line}` ended with {}\n{}", output.status, said(&output));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// [`Cmd::read`], with a text on its standard input.
    pub fn read_fed(mut self, input: &str) -> Result<String> {
        self.announce();
        let line = self.line();
        let pipes = self.inner.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().with_context(|| format!("cannot run `{line}`"))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).with_context(|| format!("`{line}` does not read its input"))?;
        }
        let output = finish(child, self.limit, &line)?;
        if !output.status.success() {
            bail!("`{line}` ended with {}\n{}\nits input was:\n{input}", output.status, said(&output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Runs it and returns all it did, whether it succeeded or not.
    pub fn output(mut self) -> Result<Output> {
        self.announce();
        let line = self.line();
        self.finish(&line)
    }

    fn finish(&mut self, line: &str) -> Result<Output> {
        let pipes = self.inner.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = pipes.spawn().with_context(|| format!("cannot run `{line}`"))?;
        finish(child, self.limit, line)
    }

    /// Asks a yes-or-no question of a program; one that is missing says no.
    pub fn succeeds(self) -> bool {
        self.quiet().output().is_ok_and(|output| output.status.success())
    }

    /// Starts it with pipes on its output and leaves it running.
    pub fn spawn(mut self) -> Result<Child> {
        self.announce();
        let line = self.line();
        self.inner
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{line}`"))
    }

    /// The underlying command, for what this type does not offer.
    pub fn into_inner(self) -> Command {
        self.inner
    }

    /// The command as one would type it.
    pub fn line(&self) -> String {
        let (mut line, hidden) = match &self.shown {
            Some((text, hidden)) => (text.clone(), *hidden),
            None => (self.program_with_environment(), 0),
        };
        for arg in self.inner.get_args().skip(hidden) {
            line.push(' ');
            line.push_str(&quoted(&arg.to_string_lossy()));
        }
        line
    }

    fn program_with_environment(&self) -> String {
        let mut line = String::new();
        for (key, value) in self.inner.get_envs() {
            if let Some(value) = value {
                let _ = write!(line, "{}={} ", key.to_string_lossy(), quoted(&value.to_string_lossy()));
            }
        }
        line + &quoted(&self.inner.get_program().to_string_lossy())
    }

    fn announce(&self) {
        if !self.quiet {
            eprintln!("\x1b[2m$ {}\x1b[0m", self.line());
        }
    }
}

impl From<Command> for Cmd {
    fn from(inner: Command) -> Self {
        Self { inner, quiet: false, limit: Some(LIMIT), again: None, shown: None }
    }
}

/// Where a program of this name is. The system's own folders count, also for users who do not have them on the PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Whether a program of this name can be run.
pub fn on_path(program: &str) -> bool {
    find(program).is_some()
}

/// What a finished program said, for an error message.
pub fn said(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text.trim_end().to_owned()
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_reads_as_it_would_be_typed() {
        let cmd = Cmd::new("docker").args(["service", "ls", "--format", "{{.Name}} it's"]);
        assert_eq!(cmd.line(), r"docker service ls --format '{{.Name}} it'\''s'");
    }

    #[test]
    fn a_cargo_is_told_of_no_other_cargos_package() {
        let name = "CARGO_PKG_NAME".as_ref();
        assert!(env::var_os(name).is_some(), "cargo has started this test");
        let cargo = Cmd::cargo("test");
        assert!(cargo.inner.get_envs().any(|told| told == (name, None)), "{cargo:?}");
    }

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error =
            Cmd::new("sh").args(["-c", "echo no >&2; exit 3"]).quiet().read().unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no"), "{error}");
    }

    #[test]
    fn what_only_has_to_be_run_again_is() {
        let file = std::env::temp_dir().join(format!("mesh-again-{}", std::process::id()));
        let script = r#"[ -e "$0" ] && { echo well; exit; }; touch "$0"; echo too late >&2; exit 1"#;
        let cmd = || Cmd::new("sh").args(["-c", script]).arg(&file).quiet();
        assert!(cmd().again_when("another reason").read().is_err());
        std::fs::remove_file(&file).unwrap();
        let said = cmd().again_when("too late").read();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(said.unwrap(), "well");
    }
}
