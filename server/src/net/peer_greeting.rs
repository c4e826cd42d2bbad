//! How two replicas greet each other: the one that comes first in the cluster file dials and says hello, the other answers.
//!
//! Pure. A replica takes hellos only from replicas before it in the cluster file, so that a pair cannot have two connections, one
//! made by each side.

use super::ReplicaIdentity;
use crate::replica::PeerId;
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::digest::Digest;
use stablechat_protocol::message::{MAGIC, Role, ToReplica};
use stablechat_protocol::name::ReplicaName;
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::version::Versions;

/// What the dialing replica makes of the first message on the connection.
#[derive(Debug, PartialEq, Eq)]
pub enum DialerReaction {
    /// The peer has greeted us, in this version of the protocol.
    Connected { version: u16 },
    /// The peer turns us away, and says why.
    Refused(CloseReason),
    /// The connection is of no use. The peer is told this reason.
    Close(CloseReason),
}

/// The hello of the dialing replica.
pub fn hello(us: &ReplicaIdentity, dialed: &ReplicaName) -> ToReplica {
    ToReplica::Hello {
        magic: MAGIC.into(),
        version_min: us.versions.min,
        version_max: us.versions.max,
        role: Role::Replica { name: us.replica.clone(), cluster_file: us.digest_with(dialed) },
        cluster: us.cluster.clone(),
    }
}

/// The peer that says hello under this name, with a cluster file of this digest.
///
/// # Errors
/// The cluster file differs, does not have the name, or has it after us.
pub fn admit(name: &ReplicaName, cluster_file: Digest, us: &ReplicaIdentity) -> Result<PeerId, CloseReason> {
    if cluster_file != us.digest_with(name) {
        return Err(CloseReason::OtherClusterFile);
    }
    match us.place_of(name) {
        None => Err(CloseReason::OtherClusterFile),
        Some(peer) if peer < us.place => Ok(peer),
        Some(_) => {
            let detail =
                format!("replica {name} is to be dialed by {}, which the cluster file names first", us.replica);
            Err(CloseReason::OutOfPlace { detail })
        }
    }
}

/// Judges the first message from the replica that we dialed.
pub fn on_answer(message: PeerMessage, dialed: &ReplicaName, us: &ReplicaIdentity) -> DialerReaction {
    match message {
        PeerMessage::Greeting { version, .. } if !us.versions.contains(version) => {
            DialerReaction::Close(CloseReason::no_common_version(us.versions))
        }
        PeerMessage::Greeting { replica, .. } if replica != *dialed => {
            let detail = format!("replica {replica} answers where {dialed} should");
            DialerReaction::Close(CloseReason::OutOfPlace { detail })
        }
        PeerMessage::Greeting { version, .. } => DialerReaction::Connected { version },
        PeerMessage::Closing { reason } => DialerReaction::Refused(reason),
        _ => DialerReaction::Close(CloseReason::OutOfPlace { detail: "the first frame must be a greeting".into() }),
    }
}

/// Why a peer refuses us, for our log.
pub fn refusal_in_words(reason: &CloseReason, us: &ReplicaIdentity) -> String {
    match *reason {
        CloseReason::Version { version_min: min, version_max: max } => us.versions.mismatch(Versions { min, max }),
        _ => reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stablechat_protocol::cluster::Cluster;
    use stablechat_protocol::frame::{Decoded, FrameBuffer, encode};
    use stablechat_protocol::message::ToClient;

    fn name(name: &str) -> ReplicaName {
        ReplicaName::parse(name).expect("a name")
    }

    fn identity(us: &str) -> ReplicaIdentity {
        let entry = |name: &str, port: u16| format!("[[replica]]\nname = '{name}'\naddress = '127.0.0.1:{port}'\n");
        let text = format!("name = 'demo'\nid = '1'\n{}{}{}", entry("a", 1), entry("b", 2), entry("c", 3));
        ReplicaIdentity::of(&Cluster::parse(&text).expect("a good file"), &name(us)).expect("one of the three")
    }

    #[test]
    fn only_the_replicas_before_us_may_say_hello() {
        let b = identity("b");
        let admit_as = |replica: &str| admit(&name(replica), b.digest_with(&name(replica)), &b);
        assert_eq!(admit_as("a"), Ok(PeerId(0)));
        for late in ["b", "c"] {
            assert!(matches!(admit_as(late), Err(CloseReason::OutOfPlace { .. })));
        }
        assert_eq!(admit_as("d"), Err(CloseReason::OtherClusterFile));
        assert_eq!(admit(&name("a"), Digest::ZERO, &b), Err(CloseReason::OtherClusterFile));
    }

    #[test]
    fn only_the_dialed_replica_may_greet() {
        let greeting = |version, replica: &str| PeerMessage::Greeting { version, replica: name(replica) };
        let a = identity("a").speaking(Versions { min: 3, max: 4 });
        for version in [3, 4] {
            let connected = DialerReaction::Connected { version };
            assert_eq!(on_answer(greeting(version, "b"), &name("b"), &a), connected);
        }
        let closed = |message| matches!(on_answer(message, &name("b"), &a), DialerReaction::Close(_));
        assert!(closed(greeting(4, "c")));
        assert!(closed(greeting(2, "b")) && closed(greeting(5, "b")));
        assert!(closed(PeerMessage::Leave));
    }

    #[test]
    fn a_closing_reads_the_same_for_clients_and_peers() {
        let reasons = [
            CloseReason::OtherClusterFile,
            CloseReason::Version { version_min: 1, version_max: 2 },
            CloseReason::OutOfPlace { detail: "why".into() },
        ];
        for reason in reasons {
            let mut bytes = Vec::new();
            encode(&ToClient::Closing { reason: reason.clone() }, &mut bytes).expect("short");
            let mut buffer = FrameBuffer::default();
            buffer.push(&bytes);
            let Ok(Decoded::Frame(message)) = buffer.decode() else { panic!("not a peer's message") };
            assert_eq!(on_answer(message, &name("b"), &identity("a")), DialerReaction::Refused(reason));
        }
    }
}
