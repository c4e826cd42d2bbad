//! Requests as replicas hold them: what a client sent, and for whom the accepting replica found it to speak.

use crate::command::{Command, Query};
use crate::id::ClientId;
use crate::login::PublicKey;
use crate::name::AccountName;
use crate::time::Timestamp;
use crate::uid::Uid;
use crate::wire::to_cbor;

wire_struct! {
    /// For whom a request speaks: the name it claims and the key it has proved to hold. Whether that key owns that account
    /// is decided where the request is applied, so every replica decides alike, however far it has come.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Actor {
        /// The account.
        pub account: AccountName,
        /// The key whose private half the client holds.
        pub key: PublicKey,
    }
}

wire_struct! {
    /// A command with its session, as replicas keep it in their logs. Its encoding determines its uid.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Request {
        /// The session.
        pub client: ClientId,
        /// The place in the session, from 1.
        pub sequence: u64,
        /// For whom it speaks; nobody, when the client had not logged in.
        pub actor: Option<Actor>,
        /// What to do.
        pub command: Command,
    }
}

impl Request {
    /// The uid of this request when it is issued at `timestamp`.
    pub fn uid(&self, timestamp: Timestamp) -> Uid {
        Uid::new(timestamp, &to_cbor(self))
    }
}

wire_struct! {
    /// A query, as the replica that was asked keeps it until it is stable.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct QueryRequest {
        /// The client's number for it, on its connection.
        pub id: u64,
        /// For whom it asks.
        pub actor: Option<Actor>,
        /// What to read.
        pub query: Query,
    }
}

impl QueryRequest {
    /// The place in the order of this query when it is asked at `timestamp`.
    pub fn uid(&self, timestamp: Timestamp) -> Uid {
        Uid::new(timestamp, &to_cbor(self))
    }
}
