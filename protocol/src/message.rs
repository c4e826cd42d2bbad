//! What clients and replicas say to each other, in both directions.
//!
//! A connection begins with [`ToReplica::Hello`] and [`ToClient::Welcome`]. `docs/PROTOCOL.md` says which message may follow
//! which. Messages between replicas are in `peer.rs`.

use crate::answer::{Answer, AnswerMetadata, QueryAnswer, Refusal};
use crate::close::CloseReason;
use crate::command::{Command, Query};
use crate::conversation::Message;
use crate::digest::Digest;
use crate::login::{Challenge, LoginProof, LoginRefusal, PublicKey};
use crate::name::{AccountName, ClusterName, ReplicaName};
use crate::request::RequestId;
use crate::room::RoomNews;
use crate::session::ClientId;
use crate::status::{PublicStatus, StatusReport};
use crate::time::Timestamp;
use crate::uid::Uid;

/// The first field of every hello. A program that speaks another protocol is recognised by its absence.
pub const MAGIC: &str = "stablechat";

wire_enum! {
    /// From a client to a replica. Only the hello may also come from another replica.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum ToReplica {
        /// The first frame.
        0 => Hello {
            /// [`MAGIC`].
            magic: String,
            /// The oldest version that the sender speaks.
            version_min: u16,
            /// The newest version that the sender speaks.
            version_max: u16,
            role: Role,
            /// The cluster that the sender wants to talk to.
            cluster: ClusterName,
        },
        /// From here on the connection speaks for this account. Replaces an earlier login.
        1 => Login {
            account: AccountName,
            key: PublicKey,
            /// Whether messages to the account shall be pushed to this connection ([`ToClient::Delivery`]).
            receive: bool,
            /// Proves that the client holds the private half of `key`.
            proof: LoginProof,
        },
        /// From here on the connection speaks for no account.
        2 => Logout,
        /// A command, at its place in a session.
        3 => Request {
            client: ClientId,
            /// The request's number in its session, from 1.
            sequence: u64,
            /// When the client issued it. A retransmission has the same sequence number and a new timestamp.
            timestamp: Timestamp,
            command: Command,
        },
        /// A query.
        4 => Query {
            /// The client's number for the query, unique on this connection.
            id: u64,
            /// When the client issued it.
            timestamp: Timestamp,
            query: Query,
        },
        /// Asks for a [`ToClient::Pong`].
        5 => Ping {
            /// The client's clock; the pong returns it.
            sent: Timestamp,
        },
        /// Asks for a [`ToClient::Status`], or without a login for a [`ToClient::PublicStatus`].
        6 => Status,
        /// Asks the replica to ping all its peers now, and to report the result: one [`ToClient::PeersPinged`], then one
        /// [`ToClient::PeerPong`] for each peer that answers. Unless the connection speaks for an operator, or for an account that exists,
        /// no peer is pinged.
        7 => PingPeers,
    }
}

wire_enum! {
    /// From a replica to a client.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum ToClient {
        /// Accepts a hello.
        0 => Welcome {
            /// The newest version that both sides speak. It holds for the rest of the connection.
            version: u16,
            replica: ReplicaName,
            /// The replica's clock.
            clock: Timestamp,
            /// Logins on this connection sign it.
            challenge: Challenge,
        },
        /// The last frame: the replica ends the connection.
        1 => Closing { reason: CloseReason },
        /// Accepts a login: its proof is good.
        2 => LoggedIn { account: AccountName },
        /// Refuses a login: the connection speaks for no account.
        3 => LoginRefused { account: AccountName, reason: LoginRefusal },
        /// Answers a command.
        4 => Answer {
            client: ClientId,
            sequence: u64,
            /// The uid of the transmission that was applied: the client may have sent the request several times.
            uid: Uid,
            answer: Answer,
            metadata: AnswerMetadata,
        },
        /// Answers a query.
        5 => QueryAnswer {
            id: u64,
            answer: QueryAnswer,
            metadata: AnswerMetadata,
        },
        /// The replica did not accept a request or query. It may still answer the request, if another replica accepted it.
        6 => Refused {
            request: RequestId,
            /// The timestamp of the transmission that was refused.
            timestamp: Timestamp,
            reason: Refusal,
            /// The replica's clock.
            clock: Timestamp,
        },
        /// A message in a conversation of the account that the connection speaks for, perhaps from the account itself.
        7 => Delivery { message: Message },
        /// Answers a ping.
        8 => Pong {
            /// As in the ping.
            sent: Timestamp,
            /// The replica's clock.
            clock: Timestamp,
        },
        /// Answers [`ToReplica::Status`] if the connection speaks for an operator, or for an account that exists.
        9 => Status { report: Box<StatusReport> },
        /// A repair changed the answer to a command that had been answered before. Sent to the connection that last used the
        /// command's session.
        10 => Changed {
            client: ClientId,
            sequence: u64,
            /// The uid of the transmission that is applied now.
            uid: Uid,
            /// The answer that holds now. It may be the same as before, with another uid.
            answer: Answer,
        },
        /// Answers [`ToReplica::PingPeers`]: one answer serves all that arrived together.
        11 => PeersPinged {
            /// The replica's clock when it pinged its peers.
            sent: Timestamp,
            /// The peers that it pinged: those that it has a connection to.
            peers: Vec<ReplicaName>,
        },
        /// A peer answered a ping that was sent for [`ToReplica::PingPeers`].
        12 => PeerPong {
            peer: ReplicaName,
            /// The replica's clock when it pinged the peer.
            sent: Timestamp,
            /// The peer's clock when it answered.
            clock: Timestamp,
            /// The replica's clock when the answer arrived.
            received: Timestamp,
        },
        /// The account has got another key, or was deleted, so this login is good for nothing any more. A login with another
        /// key may have crossed this on its way, and stands.
        13 => LoggedOut {
            account: AccountName,
            /// The key of the login that has ended.
            key: PublicKey,
        },
        /// Answers [`ToReplica::Status`] otherwise.
        14 => PublicStatus { status: PublicStatus },
        /// The unread messages or the conversations of the account that the connection speaks for have changed without a delivery, by
        /// catching up, a repair or a snapshot: ask for its inbox again.
        15 => InboxChanged,
        /// Something has happened in a room of the account that the connection speaks for, or to the account.
        16 => RoomNews { news: RoomNews },
    }
}

wire_enum! {
    /// What the sender of a hello is.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Role {
        /// The messages that follow are [`ToReplica`] one way and [`ToClient`] the other.
        0 => Client,
        /// The messages that follow, both ways, are `peer::PeerMessage`s.
        1 => Replica {
            name: ReplicaName,
            /// The digest of what both cluster files must agree on, see [`crate::cluster::Cluster::digest_between`].
            cluster_file: Digest,
        },
    }
}
