//! The hostname that a service gives its tasks, with the placeholders that Swarm fills in (swarmkit, template/context.go).

use crate::desired::backends;
use crate::swarm::snapshot::{Node, Service, Task};

/// `None` if the template asks for something that the agent does not know.
pub(super) fn expand(template: &str, service: &Service, task: &Task, node: Option<&Node>) -> Option<String> {
    let mut expanded = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (placeholder, after) = after.split_once("}}")?;
        expanded.push_str(before);
        let value = match placeholder.trim() {
            ".Service.ID" => service.id.clone(),
            ".Service.Name" => service.name.clone(),
            ".Task.ID" => task.id.clone(),
            ".Task.Name" => container_name(service, task),
            // Swarmkit takes the node where there is no slot.
            ".Task.Slot" if task.slot == 0 => task.node_id.clone(),
            ".Task.Slot" => task.slot.to_string(),
            ".Node.ID" => task.node_id.clone(),
            ".Node.Hostname" => node?.hostname.clone(),
            other => label(other, service)?,
        };
        expanded.push_str(&value);
        rest = after;
    }
    expanded.push_str(rest);
    Some(expanded)
}

/// `.Service.Labels.tier` and `index .Service.Labels "com.example.tier"`.
fn label(placeholder: &str, service: &Service) -> Option<String> {
    if let Some(name) = placeholder.strip_prefix(".Service.Labels.") {
        return service.labels.get(name).cloned();
    }
    let (function, arguments) = placeholder.split_once(char::is_whitespace)?;
    let (map, key) = arguments.trim().split_once(char::is_whitespace)?;
    let name = key.trim().strip_prefix('"')?.strip_suffix('"')?;
    if function != "index" || map != ".Service.Labels" {
        return None;
    }
    service.labels.get(name).cloned()
}

/// As Docker names a task's container (swarmkit, api/naming): tasks of global services have the node for a slot.
pub(super) fn container_name(service: &Service, task: &Task) -> String {
    format!("{}.{}", backends::name(service, task), task.id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_placeholder_of_swarm_is_filled_in() {
        let service = Service {
            id: "sid".into(),
            name: "app_web".into(),
            labels: BTreeMap::from([("tier".into(), "front".into()), ("a.b".into(), "dotted".into())]),
            ..Service::default()
        };
        let task = Task { id: "tid".into(), slot: 3, node_id: "nid".into(), ..Task::default() };
        let node = Node { hostname: "one".into(), ..Node::default() };
        let global = Task { slot: 0, ..task.clone() };
        for (template, task, expected) in [
            ("", &task, Some("")),
            ("plain", &task, Some("plain")),
            ("web-{{.Task.Slot}}", &task, Some("web-3")),
            ("{{ .Task.Slot }}.{{.Node.Hostname}}x", &task, Some("3.onex")),
            (
                "{{.Service.Name}}-{{.Service.ID}}-{{.Node.ID}}-{{.Task.ID}}",
                &task,
                Some("app_web-sid-nid-tid"),
            ),
            ("{{.Task.Name}}", &task, Some("app_web.3.tid")),
            ("{{.Task.Slot}}", &global, Some("nid")),
            ("{{.Service.Labels.tier}}", &task, Some("front")),
            ("{{index .Service.Labels \"a.b\"}}", &task, Some("dotted")),
            ("{{index .Service.Labels \"none\"}}", &task, None),
            ("{{.Node.Platform.OS}}", &task, None),
            ("{{if true}}x{{end}}", &task, None),
            ("{{.Task.Slot", &task, None),
        ] {
            assert_eq!(expand(template, &service, task, Some(&node)).as_deref(), expected, "{template}");
        }
        assert_eq!(expand("{{.Node.Hostname}}", &service, &task, None), None);
    }
}
