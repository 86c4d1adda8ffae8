//! What the suites in a virtual machine say of their tests.

/// Counted from the lines of Rust's own test harness, and of ours, which says PASS and FAIL.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: usize,
    pub(super) failed: Vec<String>,
    /// Tests that this kernel cannot run, and why.
    pub(super) left_out: Vec<String>,
}

impl Tally {
    pub(super) fn see(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test ") {
            match rest.rsplit_once(" ... ") {
                Some((_, "ok")) => self.passed += 1,
                Some((name, "FAILED")) => self.failed.push(name.to_owned()),
                _ => {}
            }
        } else if line.starts_with("PASS  ") {
            self.passed += 1;
        } else if let Some(name) = line.strip_prefix("FAIL  ") {
            self.failed.push(name.split(" (").next().unwrap_or(name).to_owned());
        } else if let Some(rest) = line.strip_prefix(LEFT_OUT) {
            self.left_out.push(rest.to_owned());
        }
    }

    /// What a test that this kernel cannot run counts as is not a pass.
    pub(super) fn passed(&self) -> usize {
        self.passed.saturating_sub(self.left_out.len())
    }
}

/// Tests say so themselves (`tests/kernel/support/kernel.rs`), and then end.
const LEFT_OUT: &str = "left out: ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_harnesses_are_understood() {
        let said = "running 4 tests\nleft out: xdp: it needs Linux 6.3\ntest xdp ... ok\ntest a::b ... ok\n\
                    test c ... FAILED\n----  it serves\nPASS  it serves (3.1 s)\nFAIL  it is (not) there (0.2 s): 404\n\
                    test result: FAILED. 2 passed; 1 failed; 0 ignored\n";
        let mut tally = Tally::default();
        said.lines().for_each(|line| tally.see(line));
        assert_eq!(tally.passed(), 2);
        assert_eq!(tally.failed, ["c", "it is"]);
        assert_eq!(tally.left_out, ["xdp: it needs Linux 6.3"]);
    }
}
