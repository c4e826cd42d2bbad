//! Requests as replicas keep them: a client's command, with its session and the account that it speaks for.

use crate::command::{Command, Query};
use crate::login::PublicKey;
use crate::name::AccountName;
use crate::session::ClientId;
use crate::time::Timestamp;
use crate::uid::Uid;
use crate::wire::to_cbor;

wire_struct! {
    /// The account that a request speaks for, and the key that its client has proved to hold.
    ///
    /// Whether this key owns this account is decided where the request is applied, not where it is accepted: accepting replicas
    /// may have applied different prefixes of the log and would disagree.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Actor {
        pub account: AccountName,
        pub key: PublicKey,
    }
}

wire_struct! {
    /// A command in a session, as replicas log it. Its encoding determines its uid.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Request {
        pub client: ClientId,
        /// The request's number in its session, from 1.
        pub sequence: u64,
        /// None when the client had not logged in.
        pub actor: Option<Actor>,
        pub command: Command,
    }
}

impl Request {
    /// The uid of this request when its client issued it at `timestamp`.
    pub fn uid(&self, timestamp: Timestamp) -> Uid {
        Uid::new(timestamp, &to_cbor(self))
    }
}

wire_struct! {
    /// A request and its uid. A receiver must check that the two belong together, see [`StampedRequest::is_genuine`].
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct StampedRequest {
        pub uid: Uid,
        pub request: Request,
    }
}

impl StampedRequest {
    /// Whether `uid` is the uid of `request`.
    pub fn is_genuine(&self) -> bool {
        self.request.uid(self.uid.timestamp) == self.uid
    }
}

wire_struct! {
    /// A query, as the replica that received it keeps it until it is stable. It is never sent to another replica.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct QueryRequest {
        /// The client's number for the query, unique on its connection.
        pub id: u64,
        /// None when the client had not logged in.
        pub actor: Option<Actor>,
        pub query: Query,
    }
}

impl QueryRequest {
    /// The query's place in the order of requests when its client issued it at `timestamp`.
    pub fn uid(&self, timestamp: Timestamp) -> Uid {
        Uid::new(timestamp, &to_cbor(self))
    }
}

wire_enum! {
    /// Names a request or a query that a client has sent.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum RequestId {
        /// A command, by its place in its session.
        0 => Command { client: ClientId, sequence: u64 },
        /// A query, by the client's number for it on this connection.
        1 => Query { id: u64 },
    }
}
