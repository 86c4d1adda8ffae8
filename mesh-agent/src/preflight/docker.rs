//! The Docker that the mesh would stand beside.

use super::Finding::{self, Bad, Good, Note};
use crate::args::RunArguments;
use crate::swarm;

/// Whether it answers, and whether the mesh was tried with it.
pub(super) async fn docker(arguments: &RunArguments) -> Finding {
    let path = &arguments.docker_sock;
    match swarm::docker_version(path).await {
        Ok(version) => judge(&version),
        Err(error) => {
            Bad(format!("{error}; mount Docker's socket into the container, or name it with --docker-sock"))
        }
    }
}

/// The mesh's tests run with these, and some between.
const OLDEST: (u32, u32) = (20, 10);
const NEWEST: (u32, u32) = (28, 5);

fn judge(version: &str) -> Finding {
    let mut numbers = version.split(['.', '-', '+', '~']).map_while(|part| part.parse::<u32>().ok());
    let tried = "the mesh was tried with 20.10 to 28.5";
    match numbers.next().zip(numbers.next()) {
        Some(known) if known < OLDEST => {
            Note(format!("version {version} is older than what was tried: {tried}"))
        }
        Some(known) if known > NEWEST => {
            Note(format!("version {version} is newer than what was tried: {tried}"))
        }
        Some(_) => Good(format!("version {version} answers; {tried}")),
        None => Note(format!("cannot tell what version {version:?} is: {tried}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_judged_by_what_was_tried() {
        for version in ["20.10.24+dfsg1", "24.0.7-ce", "26.1.5", "28.5.2+dfsg4"] {
            assert!(matches!(judge(version), Good(_)), "{version}");
        }
        for (version, word) in
            [("19.03.15", "older"), ("29.0.0", "newer"), ("28.6.0", "newer"), ("dev", "cannot tell")]
        {
            let Note(text) = judge(version) else { panic!("{version}") };
            assert!(text.contains(word), "{text}");
        }
    }
}
