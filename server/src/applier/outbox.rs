//! Messages that are gathered in a wake, until they may leave: answers leave only after the commit.

use crate::net::NetCommand;
use crate::replica::{ConnectionId, PeerId};
use stablechat_protocol::answer::QueryAnswer;
use stablechat_protocol::conversation::Message;
use stablechat_protocol::message::ToClient;
use stablechat_protocol::peer::{BODIES_BYTES, PeerMessage};
use stablechat_protocol::request::StampedRequest;

/// About how many bytes a message takes in memory beside its texts.
const OVERHEAD: usize = 256;

/// Messages in the order in which they are to be sent.
#[derive(Default)]
pub struct Outbox {
    messages: Vec<NetCommand>,
    /// About how many bytes they take in memory.
    bytes: usize,
}

impl Outbox {
    /// About how many bytes have gathered.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn for_client(&mut self, to: ConnectionId, message: ToClient) {
        self.for_clients(vec![to], message);
    }

    /// The same message for each of these connections. It is encoded once.
    pub fn for_clients(&mut self, to: Vec<ConnectionId>, message: ToClient) {
        if to.is_empty() {
            return;
        }
        let text = |message: &Message| OVERHEAD + message.text.as_str().len();
        self.bytes += match &message {
            ToClient::QueryAnswer { answer, .. } => match answer {
                QueryAnswer::Messages { messages, .. } => OVERHEAD + messages.iter().map(text).sum::<usize>(),
                QueryAnswer::Accounts { names, .. } => OVERHEAD * (1 + names.len()),
                QueryAnswer::Inbox { entries, invitations, .. } => OVERHEAD * (1 + entries.len() + invitations.len()),
                QueryAnswer::Rooms { rooms, .. } => 2 * OVERHEAD * (1 + rooms.len()),
                QueryAnswer::Members { members, .. } => OVERHEAD * (1 + members.len()),
                QueryAnswer::Settings { .. } | QueryAnswer::Rejected { .. } => OVERHEAD,
            },
            ToClient::Delivery { message } => text(message),
            _ => OVERHEAD,
        };
        self.bytes += size_of_val(&to[..]);
        self.messages.push(NetCommand::ToClients { to, message });
    }

    pub fn for_peer(&mut self, to: PeerId, message: PeerMessage) {
        let requests = |requests: &Vec<StampedRequest>| OVERHEAD * 2 * requests.len();
        self.bytes += match &message {
            PeerMessage::Bodies { requests: held } | PeerMessage::LogEntries { requests: held, .. } => requests(held),
            PeerMessage::SnapshotPart { .. } => OVERHEAD + BODIES_BYTES,
            PeerMessage::Announce { uids, .. } | PeerMessage::Listed { uids } | PeerMessage::NotHeld { uids } => {
                size_of_val(&uids[..])
            }
            _ => OVERHEAD,
        };
        self.messages.push(NetCommand::ToPeer { to, message });
    }

    /// Adds a command of negligible size.
    pub fn add(&mut self, command: NetCommand) {
        self.messages.push(command);
    }

    /// The peers whose new connections the gathered messages acknowledge, once for each connection.
    pub fn connections_seen(&self) -> impl Iterator<Item = PeerId> {
        self.messages.iter().filter_map(|command| match command {
            NetCommand::ConnectionSeen { peer } => Some(*peer),
            _ => None,
        })
    }

    /// Hands over everything that has gathered.
    pub fn release(&mut self, post: &mut impl FnMut(Vec<NetCommand>)) {
        self.bytes = 0;
        if !self.messages.is_empty() {
            post(std::mem::take(&mut self.messages));
        }
    }
}
