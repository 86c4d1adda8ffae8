//! `dig`, and what it prints.

use anyhow::{Context, Result};

use crate::inside::Inside;

/// Sends the resolver of a container any bytes by UDP; returns its answer, or nothing if there is none in two seconds.
pub fn exchange(place: &Inside<'_>, message: &[u8]) -> Result<Vec<u8>> {
    const SEND: &str = r#"exec 3<>/dev/udp/127.0.0.11/53 && printf "$0" >&3 && timeout 2 dd bs=4096 count=1 status=none <&3 | od -An -v -tx1"#;
    let escaped: Vec<String> = message.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    let text = place.command("bash").args(["-c", SEND, &escaped.concat()]).quiet().read()?;
    let bytes = text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16));
    Ok(bytes.collect::<std::result::Result<_, _>>()?)
}

/// One answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dig {
    pub status: String,
    pub flags: Vec<String>,
    /// What follows `; EDNS:`.
    pub edns: Option<String>,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    pub additionals: Vec<Record>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub name: String,
    pub ttl: u32,
    pub kind: String,
    pub data: String,
}

impl Dig {
    /// Asks the resolver of a container; one try, without EDNS unless asked for.
    pub fn ask(place: &Inside<'_>, question: &[&str]) -> Result<Self> {
        const PLAIN: &[&str] = &["@127.0.0.11", "+tries=1", "+time=2", "+noedns", "+noquestion", "+nostats"];
        let text = place.command("dig").args(PLAIN).args(question).quiet().read()?;
        Self::parse(&text).with_context(|| format!("dig {} printed:\n{text}", question.join(" ")))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut dig = Self::default();
        let mut section = String::new();
        for line in text.lines() {
            if let Some(head) = line.strip_prefix(";; ->>HEADER<<- ") {
                dig.status = head.split("status: ").nth(1)?.split(',').next()?.into();
            } else if let Some(flags) = line.strip_prefix(";; flags: ") {
                dig.flags = flags.split(';').next()?.split_whitespace().map(String::from).collect();
            } else if let Some(edns) = line.strip_prefix("; EDNS: ") {
                dig.edns = Some(edns.into());
            } else if let Some(title) =
                line.strip_prefix(";; ").and_then(|line| line.strip_suffix(" SECTION:"))
            {
                section = title.into();
            } else if !line.starts_with(';') && !line.is_empty() {
                let record = Record::parse(line)?;
                match section.as_str() {
                    "ANSWER" => dig.answers.push(record),
                    "AUTHORITY" => dig.authorities.push(record),
                    "ADDITIONAL" => dig.additionals.push(record),
                    _ => return None,
                }
            }
        }
        (!dig.status.is_empty()).then_some(dig)
    }

    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|there| there == flag)
    }

    /// The data of the answers, in their order.
    pub fn data(&self) -> Vec<&str> {
        self.answers.iter().map(|record| record.data.as_str()).collect()
    }

    pub fn sorted(&self) -> Vec<&str> {
        let mut data = self.data();
        data.sort_unstable();
        data
    }
}

impl Record {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (name, ttl) = (words.next()?.into(), words.next()?.parse().ok()?);
        let kind = words.nth(1)?.into();
        Some(Self { name, ttl, kind, data: words.collect::<Vec<_>>().join(" ") })
    }
}
