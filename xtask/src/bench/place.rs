//! Where a benchmark runs: on the lab that is up, which stays up, or on one that is there for it alone.

use anyhow::{Result, ensure};
use mesh_tests::{
    interrupt,
    lab::{Lab, Lock, Shape},
    mesh,
};

use crate::setup::{self, Set, docker};

/// Measures on a lab with the mesh on it, and so many nodes or more. What was not there before is taken away afterwards, also after a failure and Ctrl-C.
pub(super) fn on_lab(nodes: usize, measure: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    setup::ensure(&[Set::Build, Set::Lab, Set::Bench])?;
    let _lock = Lock::take()?;
    interrupt::catch();
    let place = Place::prepare(nodes)?;
    let measured = measure(&place.lab);
    let cleared = place.clear();
    ensure!(!interrupt::happened(), "interrupted");
    measured.and(cleared)
}

struct Place {
    lab: Lab,
    brought: Brought,
}

/// What was not there before. It is taken away when this is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Brought {
    Nothing,
    Mesh,
    Lab,
}

impl Place {
    fn prepare(nodes: usize) -> Result<Self> {
        let up = the_one_that_is_up(nodes)?;
        let with_mesh = up.as_ref().is_some_and(mesh::is_deployed);
        // Before there is a lab that would have to be waited for and removed.
        let images = if with_mesh { mesh::build_workloads()? } else { mesh::build_all()? };
        let place = match up {
            Some(lab) if with_mesh => {
                println!("on the lab that is up, which stays as it is");
                Self { lab, brought: Brought::Nothing }
            }
            Some(lab) => {
                println!("on the lab that is up; the mesh is there for this benchmark only");
                Self { lab, brought: Brought::Mesh }
            }
            None => {
                println!("on a lab that is there for this benchmark only");
                Self {
                    lab: Lab::fresh(Shape { docker: docker::newest(), ..Shape::default() })?,
                    brought: Brought::Lab,
                }
            }
        };
        mesh::load(&place.lab, &images)?;
        match place.brought {
            Brought::Nothing => mesh::answers(&place.lab)?,
            Brought::Mesh | Brought::Lab => mesh::deploy(&place.lab)?,
        }
        Ok(place)
    }

    /// As dropping it does, but tells what went wrong.
    fn clear(mut self) -> Result<()> {
        self.take_away()
    }

    fn take_away(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.brought, Brought::Nothing) {
            Brought::Nothing => Ok(()),
            Brought::Mesh => mesh::uninstall(&self.lab),
            Brought::Lab => Lab::down(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.take_away() {
            eprintln!("something is left behind: {error:#}; `cargo xtask lab down` removes it");
        }
    }
}

/// The lab that is up, if it can be used. One that is broken is nobody's, and gives way.
fn the_one_that_is_up(nodes: usize) -> Result<Option<Lab>> {
    let Some(lab) = Lab::open().ok().filter(Lab::is_whole) else { return Ok(None) };
    let there = lab.nodes.len();
    ensure!(
        there >= nodes,
        "the lab that is up has {there} nodes, and this takes {nodes}: after `cargo xtask lab down` it makes one of its own"
    );
    Ok(Some(lab))
}
