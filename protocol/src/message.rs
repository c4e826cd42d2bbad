//! The messages between a client and a replica, in both directions.
//!
//! A connection begins with [`ToReplica::Hello`] and [`ToClient::Welcome`]; what may follow is in `docs/PROTOCOL.md`.

use crate::answer::{Answer, Message, Note, QueryAnswer, Refusal};
use crate::command::{Command, Query};
use crate::id::{Challenge, ClientId, Digest};
use crate::login::{PublicKey, Signature};
use crate::name::{AccountName, ClusterName, ReplicaName};
use crate::status::StatusReport;
use crate::time::Timestamp;
use crate::uid::Uid;
use crate::version::Versions;
use std::fmt;

/// What every hello begins with, so that a stranger's first frame is told from a client's.
pub const MAGIC: &str = "stablechat";
/// The newest version of the protocol that this build speaks: its own.
pub const VERSION_MAX: u16 = 1;
/// The oldest version of the protocol that this build speaks: the one before its own, if there is one.
pub const VERSION_MIN: u16 = if VERSION_MAX > 1 { VERSION_MAX - 1 } else { 1 };

wire_enum! {
    /// From a client to a replica.
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
            /// What the sender is.
            role: Role,
            /// The cluster it looks for.
            cluster: ClusterName,
        },
        /// From here on the connection speaks for this account. Replaces an earlier login.
        1 => Login {
            /// The account.
            account: AccountName,
            /// The key that the account is owned by.
            key: PublicKey,
            /// Whether messages to the account shall be pushed to this connection.
            receive: bool,
            /// Proof that the client holds the private half of the key.
            proof: Proof,
        },
        /// From here on the connection speaks for nobody.
        2 => Logout,
        /// A command, at its place in a session.
        3 => Request {
            /// The session.
            client: ClientId,
            /// The place in it, from 1.
            sequence: u64,
            /// When it was issued; a repetition has a new one.
            timestamp: Timestamp,
            /// What to do.
            command: Command,
        },
        /// A query.
        4 => Query {
            /// The client's number for it, on this connection.
            id: u64,
            /// When it was issued.
            timestamp: Timestamp,
            /// What to read.
            query: Query,
        },
        /// Asks for a [`ToClient::Pong`] at once.
        5 => Ping {
            /// The client's clock, to be sent back.
            sent: Timestamp,
        },
        /// Asks for a [`ToClient::Status`]. Needs no login.
        6 => Status,
        /// Asks the replica to ping all its peers at once, and to tell what comes of it: [`ToClient::PeersPinged`] and for each
        /// peer that answers [`ToClient::PeerPong`]. Needs no login.
        7 => PingPeers,
    }
}

wire_enum! {
    /// From a replica to a client.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum ToClient {
        /// The answer to a hello that was in order.
        0 => Welcome {
            /// The agreed version: the newest that both speak.
            version: u16,
            /// Who answers.
            replica: ReplicaName,
            /// Its clock.
            clock: Timestamp,
            /// To be signed by logins on this connection.
            challenge: Challenge,
        },
        /// The last frame: the replica ends the connection.
        1 => Closing {
            /// Why.
            reason: CloseReason,
        },
        /// The answer to a login whose proof is good.
        2 => LoggedIn {
            /// The account.
            account: AccountName,
        },
        /// The answer to a login whose proof is not.
        3 => LoginRefused {
            /// The account.
            account: AccountName,
        },
        /// The answer to a command.
        4 => Answer {
            /// The session.
            client: ClientId,
            /// The place in it.
            sequence: u64,
            /// The uid of the request that is answered: of one of its repetitions.
            uid: Uid,
            /// The answer.
            answer: Answer,
            /// What the replica says around it.
            note: Note,
        },
        /// The answer to a query.
        5 => QueryAnswer {
            /// The client's number for it.
            id: u64,
            /// The answer.
            answer: QueryAnswer,
            /// What the replica says around it.
            note: Note,
        },
        /// The replica did not accept a request. It may still answer it, if another replica did.
        6 => Refused {
            /// Which request.
            request: RequestId,
            /// With which timestamp.
            timestamp: Timestamp,
            /// Why.
            reason: Refusal,
            /// The replica's clock.
            clock: Timestamp,
        },
        /// A message for the account that the connection speaks for.
        7 => Delivery {
            /// The message.
            message: Message,
        },
        /// The answer to a ping.
        8 => Pong {
            /// As in the ping.
            sent: Timestamp,
            /// The replica's clock.
            clock: Timestamp,
        },
        /// The answer to a request for status.
        9 => Status {
            /// What the replica says of itself.
            report: Box<StatusReport>,
        },
        /// The answer to a command that was answered before is another since the replica has learned of requests from
        /// before it. Sent to the connection that the command's session last used.
        10 => Changed {
            /// The session.
            client: ClientId,
            /// The place in it.
            sequence: u64,
            /// The uid of the request that is answered: of one of its repetitions.
            uid: Uid,
            /// The answer as it is now; it may be what it was.
            answer: Answer,
        },
        /// The answer to a request to ping the peers, at least one for those that came together.
        11 => PeersPinged {
            /// The replica's clock when it did.
            sent: Timestamp,
            /// The peers that it is connected with, which it has pinged.
            peers: Vec<ReplicaName>,
        },
        /// A peer has answered such a ping.
        12 => PeerPong {
            /// The peer.
            peer: ReplicaName,
            /// The replica's clock when it pinged.
            sent: Timestamp,
            /// The peer's clock.
            clock: Timestamp,
            /// The replica's clock when the answer had come.
            received: Timestamp,
        },
    }
}

wire_enum! {
    /// What a connection's sender is.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Role {
        /// A client.
        0 => Client,
        /// Another replica of the cluster. What follows on the connection, both ways, are
        /// [`crate::peer::PeerMessage`]s.
        1 => Replica {
            /// Which one.
            name: ReplicaName,
            /// What both cluster files must agree on, see [`crate::cluster::Cluster::digest_between`].
            cluster_file: Digest,
        },
    }
}

wire_enum! {
    /// How a login proves that it holds the key.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Proof {
        /// A signature of the [`crate::login::Statement`] about this connection.
        0 => Signature {
            /// The signature.
            signature: Signature,
        },
    }
}

wire_enum! {
    /// Which request is meant.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum RequestId {
        /// A command.
        0 => Command {
            /// The session.
            client: ClientId,
            /// The place in it.
            sequence: u64,
        },
        /// A query.
        1 => Query {
            /// The client's number for it.
            id: u64,
        },
    }
}

wire_enum! {
    /// Why a replica ends a connection.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum CloseReason {
        /// The first frame was not a stablechat hello.
        0 => NotStablechat,
        /// No version is spoken by both sides.
        1 => Version {
            /// The oldest that the replica speaks.
            version_min: u16,
            /// The newest that the replica speaks.
            version_max: u16,
        },
        /// The replica belongs to another cluster.
        2 => WrongCluster {
            /// Its cluster.
            cluster: ClusterName,
        },
        /// A frame was not what the protocol's grammar allows.
        3 => Malformed {
            /// What was wrong, for a person.
            detail: String,
        },
        /// A frame was announced that is longer than the limit.
        4 => TooLarge {
            /// Its length in bytes.
            length: u64,
            /// The limit in bytes.
            limit: u64,
        },
        /// A frame was in order, but not at this point of the connection.
        5 => OutOfPlace {
            /// What was wrong, for a person.
            detail: String,
        },
        /// Nothing was heard for too long.
        6 => Silent,
        /// What was sent was not read fast enough.
        7 => SlowReader,
        /// The replica is stopping.
        8 => Stopping,
        /// The replica has as many connections as it can serve.
        9 => Full,
        /// A peer's cluster file differs from the replica's own, or does not name the peer.
        10 => OtherClusterFile,
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::NotStablechat => write!(formatter, "what it got was not stablechat's protocol"),
            CloseReason::Version { version_min: min, version_max: max } => {
                write!(formatter, "it speaks {} of the protocol", Versions { min: *min, max: *max })
            }
            CloseReason::WrongCluster { cluster } => write!(formatter, "it belongs to the cluster {cluster}"),
            CloseReason::Malformed { detail } => write!(formatter, "it got a malformed frame: {detail}"),
            CloseReason::TooLarge { length, limit } => {
                write!(formatter, "it got a frame of {length} bytes, more than {limit}")
            }
            CloseReason::OutOfPlace { detail } => write!(formatter, "it got a frame out of place: {detail}"),
            CloseReason::Silent => write!(formatter, "it heard nothing for too long"),
            CloseReason::SlowReader => write!(formatter, "what it sent was not read"),
            CloseReason::Stopping => write!(formatter, "it is stopping"),
            CloseReason::Full => write!(formatter, "it has too many connections"),
            CloseReason::OtherClusterFile => write!(formatter, "its cluster file differs"),
        }
    }
}
