//! Whom one speaks as: an account or nobody, with a session and an inbox of its own.

use super::Effect;
use crate::greeting::Credentials;
use crate::inbox::Inbox;
use crate::session::{Outgoing, Session};
use stablechat_protocol::message::ToReplica;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::rc::Rc;
use std::time::Duration;

/// Replicas forget sessions that are unused for a day. One that has been idle for half of it is not used again.
const SESSION_IDLE_MAX: Duration = Duration::from_secs(12 * 3600);

/// Whom one speaks as.
pub(super) struct Person {
    /// The account; `None` for nobody.
    pub identity: Option<Rc<Credentials>>,
    /// Whether its messages are received and acknowledged.
    pub receive: bool,
    /// Its commands.
    pub session: Session,
    /// Its messages.
    pub inbox: Inbox,
    /// The query that fetches a page for the inbox.
    pub page: Option<u64>,
    /// The acknowledgement that is under way, by its sequence number, and what it acknowledges; at most one is.
    pub acknowledging: Option<(u64, Vec<Uid>)>,
    /// When a command was last issued.
    pub issued_at: Timestamp,
}

impl Person {
    /// A person with a new session.
    pub fn new(identity: Option<Rc<Credentials>>, receive: bool, session: Session) -> Person {
        let (inbox, issued_at) = (Inbox::default(), Timestamp::ZERO);
        Person { identity, receive, session, inbox, page: None, acknowledging: None, issued_at }
    }

    /// The account's name.
    pub fn name(&self) -> Option<&AccountName> {
        self.identity.as_ref().map(|identity| &identity.account)
    }

    /// Whether everything asked of the replicas is answered, and everything shown is acknowledged.
    pub fn is_quiet(&self) -> bool {
        self.session.is_idle() && !self.inbox.has_acknowledgements()
    }

    /// Whether a new session has to take the place of this one: it has been idle for so long that replicas may have
    /// forgotten it, or one of them cannot follow it. The commands of both are in order, by their timestamps.
    pub fn needs_session(&self, now: Timestamp) -> bool {
        let is_forgotten = self.session.next_sequence() > 1 && now.since(self.issued_at) > SESSION_IDLE_MAX;
        self.session.is_idle() && (is_forgotten || self.session.is_torn())
    }

    /// What logs its connections in.
    pub fn login(&self) -> Effect {
        Effect::LogIn { identity: self.identity.clone(), receive: self.receive }
    }
}

/// The frame for a command of a session.
pub(super) fn request(client: ClientId, outgoing: Outgoing) -> ToReplica {
    let Outgoing { sequence, timestamp, command } = outgoing;
    ToReplica::Request { client, sequence, timestamp, command }
}
