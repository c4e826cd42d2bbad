//! The fuzz targets: functions that take any bytes, and panic when something does not hold that must hold for all of them.
//!
//! `scripts/fuzz` runs them under libFuzzer, with coverage. The test `fuzz` runs them on the kept inputs, and on mutations of
//! those.

use serde::Serialize;
use serde::de::DeserializeOwned;
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::frame::{Decoded, FrameBuffer, FrameError};
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::name::{AccountName, Pattern};
use stablechat_protocol::peer::PeerMessage;
use stablechat_protocol::wire::{from_cbor, to_cbor};
use std::fmt::Debug;

/// The longest item of [`frames`]: that of a stranger's first frame.
const ITEM_MAX: usize = 4096;

#[derive(Clone, Copy)]
pub struct Target {
    /// As `scripts/fuzz` calls it; also the directory of its inputs.
    pub name: &'static str,
    pub run: fn(&[u8]),
}

/// All targets.
pub const ALL: [Target; 6] = [
    Target { name: "frames", run: frames },
    Target { name: "messages-to-replicas", run: message::<ToReplica> },
    Target { name: "messages-to-clients", run: message::<ToClient> },
    Target { name: "messages-of-peers", run: message::<PeerMessage> },
    Target { name: "cluster-files", run: cluster_file },
    Target { name: "names-and-patterns", run: name_and_pattern },
];

/// A stream yields the same messages and the same error in whatever pieces it arrives. The first byte of the input is the length
/// of the pieces, the rest is the stream.
fn frames(input: &[u8]) {
    let Some((&length, stream)) = input.split_first() else { return };
    let whole = decode_all(stream, stream.len().max(1));
    assert_eq!(decode_all(stream, usize::from(length).max(1)), whole);
}

/// All messages of a stream that arrives in pieces of this length, and the error at which it ends if there is one.
fn decode_all(stream: &[u8], length: usize) -> (Vec<ToReplica>, Option<FrameError>) {
    let mut buffer = FrameBuffer::with_limit(ITEM_MAX);
    let mut messages = Vec::new();
    for piece in stream.chunks(length) {
        buffer.push(piece);
        loop {
            match buffer.decode() {
                Ok(Decoded::Frame(message)) => messages.push(message),
                Ok(Decoded::NeedMore) => break,
                Err(error) => {
                    assert_eq!(buffer.decode::<ToReplica>(), Err(error.clone()), "an error is final");
                    return (messages, Some(error));
                }
            }
        }
    }
    (messages, None)
}

/// An item that is a message has one encoding, which is the same message and is hardly longer than the item. It can be longer because
/// the decoder also takes bignums (tag 2) for integers: one of five bytes takes seven there, and nine as an integer.
fn message<T: Serialize + DeserializeOwned + PartialEq + Debug>(input: &[u8]) {
    let Ok(message) = from_cbor::<T>(input) else { return };
    let encoded = to_cbor(&message);
    assert!(encoded.len() * 7 <= input.len() * 9, "{} bytes were read and are {} now", input.len(), encoded.len());
    assert_eq!(from_cbor(&encoded), Ok(message));
}

/// A cluster file that is accepted can be used, and an error can be shown.
fn cluster_file(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let cluster = match Cluster::parse(text) {
        Ok(cluster) => cluster,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let names: Vec<_> = cluster.replicas.iter().map(|replica| &replica.name).collect();
    assert!((1..=names.len()).contains(&cluster.min_live) && !cluster.ahead().is_zero());
    for one in &names {
        assert!(cluster.replica(one).is_some_and(|replica| replica.address.contains(':')));
        for other in &names {
            assert_eq!(cluster.digest_between(one, other), cluster.digest_between(other, one));
        }
    }
}

/// A pattern matches the names that it describes, and all of them begin with its literal prefix. The input is a name, a line
/// feed, and a pattern.
fn name_and_pattern(input: &[u8]) {
    let Some((name, pattern)) = std::str::from_utf8(input).ok().and_then(|text| text.split_once('\n')) else { return };
    let (name, pattern) = match (AccountName::parse(name), Pattern::parse(pattern)) {
        (Ok(name), Ok(pattern)) => (name, pattern),
        (name, pattern) => {
            let faults = [name.err(), pattern.err()];
            assert!(faults.iter().flatten().all(|fault| fault.to_string().len() < 4096), "{faults:?}");
            return;
        }
    };
    let matches = pattern.matches(name.as_str());
    assert_eq!(matches, matches_by_definition(pattern.as_str().as_bytes(), name.as_str().as_bytes()));
    assert!(!matches || name.as_str().starts_with(pattern.literal_prefix()));
}

/// The definition of a match, as a table: whether the rest of the pattern matches the rest of the name.
fn matches_by_definition(pattern: &[u8], name: &[u8]) -> bool {
    // The row of the pattern's end: only the end of the name matches it.
    let mut row: Vec<bool> = (0..=name.len()).map(|at| at == name.len()).collect();
    for &byte in pattern.iter().rev() {
        let mut before = vec![false; name.len() + 1];
        for at in (0..=name.len()).rev() {
            before[at] = match byte {
                b'*' => row[at] || (at < name.len() && before[at + 1]),
                _ => at < name.len() && (byte == b'?' || byte == name[at]) && row[at + 1],
            };
        }
        row = before;
    }
    row[0]
}
