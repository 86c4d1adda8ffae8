//! What `preflight` says of operators' filters, and of an encrypted ingress network.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::{Dump, Filter, Mode, PublishedPort, Scene, filters, subnet_of};
use crate::args::{RunArguments, Switch};
use crate::desired::protocol_number;
use crate::node::{self, NodeView};
use crate::swarm::source::Source;
use crate::swarm::survey::{Survey, survey};

/// Whether published ports can be served, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspection {
    Good(String),
    Note(String),
    Bad(String),
}

use Inspection::{Bad, Good, Note};

/// The rules of the firewall.
pub async fn rules(arguments: &RunArguments, view: &NodeView) -> Inspection {
    let survey = ask(arguments).await;
    let ports = survey.as_ref().and_then(|survey| survey.published.as_ref());
    let published: Option<BTreeSet<PublishedPort>> = ports
        .map(|ports| ports.iter().map(|port| (protocol_number(port.protocol), port.published)).collect());
    let address = survey.as_ref().and_then(|survey| survey.address);
    let (uplinks, _) = node::uplinks(view, &arguments.uplinks(), &arguments.bridge, address);
    let is_known = published.is_some();
    let scene = Scene {
        uplinks: uplinks.into_iter().map(|uplink| (uplink.name, uplink.index)).collect(),
        bridge: arguments.bridge.clone(),
        bridge_subnet: subnet_of(&arguments.bridge),
        addresses: node::addresses(view).into_iter().map(Ipv4Addr::from).collect(),
        published: published.unwrap_or_default().into(),
    };
    match Dump::take() {
        Ok(dump) => judge(arguments.firewall, &filters(&dump.parse(), &scene), is_known),
        Err(error) => Bad(format!(
            "the rules cannot be read ({error}), so published ports would stay Docker's: is NET_ADMIN there? \
             --firewall=bypass serves them all the same"
        )),
    }
}

fn judge(mode: Mode, found: &[Filter], is_known: bool) -> Inspection {
    let mut text: Vec<String> = found.iter().take(10).map(|filter| format!("`{}`", filter.text)).collect();
    if found.len() > text.len() {
        text.push(format!("{} more", found.len() - text.len()));
    }
    let text = text.join(", ");
    match (found.is_empty(), mode) {
        (true, _) if is_known => Good("no rule that Docker's mesh obeys and this one would not".into()),
        (true, _) => Good(
            "no rule for all published ports that Docker's mesh obeys and this one would not; which are published, only a \
             manager can tell"
                .into(),
        ),
        (false, Mode::Bypass) => Note(format!("published ports are served past {text}, as --firewall=bypass says")),
        (false, Mode::Respect) => Bad(format!(
            "Docker's mesh obeys {text}, and the mesh's packets would pass it by: published ports stay Docker's. Remove it, \
             or let --firewall=bypass serve them all the same"
        )),
    }
}

/// The ingress network; `None` where there is nothing to be said of it.
pub async fn ingress(arguments: &RunArguments) -> Option<Inspection> {
    let is_encrypted = ask(arguments).await?.encrypted_ingress;
    is_encrypted.then(|| match arguments.tunnel_plaintext {
        Switch::On => Note("it is encrypted, and served through a tunnel that is not, as --tunnel-plaintext=on says".into()),
        Switch::Off => Bad(
            "it is encrypted, and the mesh's tunnel is not: published ports stay Docker's. --tunnel-plaintext=on serves them \
             all the same"
                .into(),
        ),
    })
}

/// `None` if Docker does not answer, which has a check of its own.
async fn ask(arguments: &RunArguments) -> Option<Survey> {
    if arguments.source != Source::Swarm {
        return None;
    }
    survey(&arguments.docker_sock).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_fails_unless_it_is_understood() {
        let ban = Filter { text: "-j DROP".into(), is_general: true, ..Filter::default() };
        assert!(matches!(judge(Mode::Respect, &[], true), Good(_)));
        assert!(
            matches!(judge(Mode::Bypass, std::slice::from_ref(&ban), true), Note(text) if text.contains("`-j DROP`"))
        );
        let many = vec![ban; 12];
        assert!(
            matches!(judge(Mode::Respect, &many, false), Bad(text) if text.contains("`-j DROP`, 2 more"))
        );
    }
}
