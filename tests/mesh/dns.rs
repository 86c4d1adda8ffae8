//! Questions and answers of the resolver in words: `web A` is asked, and `A 10.0.1.2`, `PTR …`, `nothing` (the name is there, but no
//! such record), `no such name` or `not known here` (other servers were to be asked) is the answer.

use anyhow::{Context, Result, ensure};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};

/// The message that asks `NAME TYPE`.
pub(crate) fn question(text: &str) -> Result<Vec<u8>> {
    let (name, kind) = text.split_once(' ').with_context(|| format!("{text:?} is not NAME TYPE"))?;
    let kind: RecordType = kind.parse().with_context(|| format!("{kind:?} is no type of record"))?;
    let mut name = Name::from_ascii(name)?;
    name.set_fqdn(true);
    let mut message = Message::new(0x2a2a, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind));
    Ok(message.to_vec()?)
}

/// What is said when other servers were to be asked, and there are none.
pub(crate) fn failure(question: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    answer[3] = (answer[3] & 0xf0) | u8::try_from(u16::from(ResponseCode::ServFail)).unwrap_or(2);
    answer
}

/// The records of an answer in words, sorted.
pub(crate) fn answer(bytes: &[u8]) -> Result<Vec<String>> {
    let message = Message::from_vec(bytes).context("the answer is no DNS message")?;
    ensure!(message.metadata.message_type == MessageType::Response, "it is no answer");
    let code = message.metadata.response_code;
    let mut said: Vec<String> =
        message.answers.iter().map(|record| format!("{} {}", record.record_type(), record.data)).collect();
    if said.is_empty() {
        let words = [
            (ResponseCode::NoError, "nothing"),
            (ResponseCode::NXDomain, "no such name"),
            (ResponseCode::ServFail, "not known here"),
        ];
        let known = words.iter().find(|(its, _)| *its == code);
        said.push(known.map_or_else(|| code.to_string().to_lowercase(), |(_, words)| (*words).to_owned()));
    }
    said.sort();
    Ok(said)
}
