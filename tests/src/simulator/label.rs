//! The texts of messages: each names the request that sent it.

use stablechat_protocol::session::ClientId;
use stablechat_protocol::text::MessageText;

/// The text of a message: which request sent it.
pub fn label(client: ClientId, sequence: u64) -> MessageText {
    MessageText::parse(format!("{client} {sequence}")).expect("short")
}

/// Another text that the same request of the same session may have, when it is repeated.
pub fn other_label(client: ClientId, sequence: u64) -> MessageText {
    MessageText::parse(format!("{client} {sequence} otherwise")).expect("short")
}

/// The request that a message's text names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label {
    pub session: String,
    pub sequence: u64,
}

impl Label {
    /// The request that this text names, be it the [`label`] or the [`other_label`].
    pub fn of(text: &MessageText) -> Label {
        let mut words = text.as_str().split(' ');
        let (session, sequence) = (words.next(), words.next().and_then(|word| word.parse().ok()));
        let named = session.zip(sequence).map(|(session, sequence)| Label { session: session.into(), sequence });
        named.expect("all texts are made so")
    }

    /// The request with this place in its session.
    pub fn at(client: ClientId, sequence: u64) -> Label {
        Label { session: client.to_string(), sequence }
    }
}
