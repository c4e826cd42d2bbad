//! Why a replica ends a connection: the last thing that it sends to a client or to another replica.

use crate::name::ClusterName;
use crate::version::Versions;
use std::fmt;

wire_enum! {
    /// Why a replica ends a connection. The text for people (`Display`) speaks of the replica as "it".
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum CloseReason {
        /// The first frame was not a hello of this protocol.
        0 => NotStablechat,
        /// The other side speaks none of the versions that the replica speaks, which are these.
        1 => Version { version_min: u16, version_max: u16 },
        /// The hello asked for another cluster than the replica's, which is this.
        2 => WrongCluster { cluster: ClusterName },
        /// A frame does not keep to the grammar; `detail` says how, for a person.
        3 => Malformed { detail: String },
        /// A frame of `length` bytes was announced, and `limit` bytes are allowed.
        4 => TooLarge { length: u64, limit: u64 },
        /// A frame is well-formed but not allowed at this point of the connection; `detail` says why, for a person.
        5 => OutOfPlace { detail: String },
        /// Nothing arrived for longer than the replica waits.
        6 => Silent,
        /// The other side did not read, and the replica's write buffer for the connection is full.
        7 => SlowReader,
        /// The replica is stopping.
        8 => Stopping,
        /// The replica has as many connections as it can serve.
        9 => Full,
        /// The peer's cluster file differs from the replica's, or does not name the peer.
        10 => OtherClusterFile,
        /// The hello speaks for a replica, and the connection has no certificate for that one.
        11 => NotCertified,
    }
}

impl CloseReason {
    /// For a hello that offers none of `ours`.
    pub fn no_common_version(ours: Versions) -> CloseReason {
        CloseReason::Version { version_min: ours.min, version_max: ours.max }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::NotStablechat => write!(formatter, "what it received is not stablechat's protocol"),
            CloseReason::Version { version_min: min, version_max: max } => {
                write!(formatter, "it speaks {} of the protocol", Versions { min: *min, max: *max })
            }
            CloseReason::WrongCluster { cluster } => write!(formatter, "it belongs to the cluster {cluster}"),
            CloseReason::Malformed { detail } => write!(formatter, "it received a malformed frame: {detail}"),
            CloseReason::TooLarge { length, limit } => {
                write!(formatter, "it received a frame of {length} bytes, more than the limit of {limit}")
            }
            CloseReason::OutOfPlace { detail } => write!(formatter, "it received a frame out of place: {detail}"),
            CloseReason::Silent => write!(formatter, "it received nothing for too long"),
            CloseReason::SlowReader => write!(formatter, "what it sent was not read fast enough"),
            CloseReason::Stopping => write!(formatter, "it is stopping"),
            CloseReason::Full => write!(formatter, "it has as many connections as it can serve"),
            CloseReason::OtherClusterFile => write!(formatter, "its cluster file differs from this one"),
            CloseReason::NotCertified => {
                write!(formatter, "it was shown no certificate for the replica that says hello")
            }
        }
    }
}
