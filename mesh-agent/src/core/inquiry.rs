//! `mesh-agent check`: what the kernel's tables and the resolver's answers should have and have not, and the other way round.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;

use super::Last;
use crate::args::{RunArguments, Switch};
use crate::dataplane::kernel::Kernel;
use crate::desired::names::Sandbox;
use crate::dns::check::{self, Question};
use crate::node::namespaces;
use crate::reconcile::reconciler::Reconciler;
use crate::status::collect::Inquiry;

/// Asks the resolver in a thread of its own, and tells who has asked.
pub(super) fn answer(
    inquiry: Inquiry,
    last: &Last,
    reconciler: &Reconciler<Kernel>,
    arguments: &RunArguments,
) {
    let mut differences = match reconciler.differences(&last.desired, &last.facts) {
        Ok(differences) => differences,
        Err(error) => vec![format!("{error:#}")],
    };
    let is_asked = arguments.dns == Switch::On;
    let questions = if is_asked { questions(last, &arguments.docker_run) } else { Vec::new() };
    thread::spawn(move || {
        differences.extend(check::differences(&questions));
        // Whoever asked may have gone.
        let _ = inquiry.send(differences);
    });
}

/// For one container on each network: every service that has a virtual address there, by name.
fn questions(last: &Last, docker_run: &Path) -> Vec<Question> {
    let mut questions = Vec::new();
    for network in last.snapshot.networks.values().filter(|network| !network.ingress) {
        let mut containers = last.local.containers.values();
        let asker = containers.find(|container| container.addresses.contains_key(&network.id));
        let Some(asker) = asker else { continue };
        let details = asker.details.as_ref();
        let Some(sandbox) = details.and_then(|details| Sandbox::of(Path::new(&details.sandbox))) else {
            continue;
        };
        for service in last.snapshot.services.values() {
            let here = service.virtual_ips.iter().filter(|vip| asker.addresses.contains_key(&vip.network_id));
            let expected: BTreeSet<_> = here.map(|vip| vip.address).collect();
            if service.virtual_ips.iter().any(|vip| vip.network_id == network.id) {
                questions.push(Question {
                    namespace: namespaces::of_sandbox(docker_run, &sandbox.to_string()),
                    asker: asker.name.clone(),
                    name: service.name.clone(),
                    expected,
                });
            }
        }
    }
    questions
}
