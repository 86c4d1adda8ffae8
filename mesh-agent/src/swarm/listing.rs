//! A list of the Docker API, entry by entry: one that cannot be understood is left out and named, and the rest counts. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::wire::Identified;

/// One list of the API, by id.
#[derive(Debug)]
pub(super) struct Listed<T> {
    pub(super) objects: BTreeMap<String, T>,
    pub(super) complaints: BTreeSet<Complaint>,
}

/// What was left out, and why. Equal complaints are the same news, however often the object is listed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Complaint {
    kind: &'static str,
    id: String,
    version: u64,
    reason: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} (version {}): {}", self.kind, self.id, self.version, self.reason)
    }
}

/// With its id. Complaints about parts of it go into the conversion's second argument.
pub(super) type Converted<T> = (String, T);

pub(super) fn list<Wire: DeserializeOwned, T>(
    json: &[u8],
    kind: &'static str,
    convert: impl Fn(Wire, &mut Vec<String>) -> Converted<T>,
) -> Result<Listed<T>, serde_json::Error> {
    let entries: Option<Vec<&RawValue>> = serde_json::from_slice(json)?;
    let mut listed = Listed { objects: BTreeMap::new(), complaints: BTreeSet::new() };
    for entry in entries.unwrap_or_default() {
        let mut reasons = Vec::new();
        match serde_json::from_str::<Wire>(entry.get()) {
            Ok(wire) => {
                let (id, object) = convert(wire, &mut reasons);
                listed.objects.insert(id, object);
            }
            Err(error) => reasons.push(format!("left out: {error}")),
        }
        if !reasons.is_empty() {
            let who: Identified = serde_json::from_str(entry.get()).unwrap_or_default();
            for reason in reasons {
                let (id, version) = (who.id.clone(), who.version.index);
                listed.complaints.insert(Complaint { kind, id, version, reason });
            }
        }
    }
    Ok(listed)
}
