//! Messages between replicas.

use super::Vectors;
use super::samples::*;
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::command::Command;
use stablechat_protocol::digest::{BoundaryDigests, Digest, LogMark};
use stablechat_protocol::peer::{PeerMessage, SnapshotEnd, SnapshotRow};
use stablechat_protocol::request::{Actor, Request, StampedRequest};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use stablechat_protocol::wire::Bytes;

wire_enums! {
    "peer-message" PeerMessage {
        Greeting, Closing, Incarnation, Listed, Join, Welcome, Announce, Fetch, Bodies, Leave, LogMarks, CommonPrefix,
        FetchLog, LogEntries, Boundary, Ping, Pong, Rejoin, FetchSnapshot, SnapshotPart, SnapshotBusy,
        ProbePing, ProbePong, NotHeld, Fenced
    }
}

impl Vectors {
    pub fn add_messages_between_replicas(&mut self) {
        self.add("", PeerMessage::Greeting { version: 1, replica: replica("b") });
        self.add("", PeerMessage::Closing { reason: CloseReason::OtherClusterFile });

        self.add("", PeerMessage::Incarnation { epoch: 3, has_joined: false });
        self.add("that has joined", PeerMessage::Incarnation { epoch: u64::MAX, has_joined: true });
        self.add("of two requests", PeerMessage::Listed { uids: vec![uid(1), uid(2)] });
        self.add("", PeerMessage::Join { closed: NOW });
        self.add("", PeerMessage::Welcome { to: 3, applied: NOW.next(), grace_ns: 400_000 });
        self.add("of nothing new", PeerMessage::Announce { closed: NOW, uids: vec![] });
        self.add("of a request", PeerMessage::Announce { closed: NOW, uids: vec![uid(1)] });
        self.add("with the greatest numbers", PeerMessage::Join { closed: Timestamp::MAX });

        self.add("", PeerMessage::Fetch { uids: vec![uid(1)] });
        self.add(
            "",
            PeerMessage::Bodies { requests: vec![stamped(24, send("hello, bob")), stamped(25, Command::Delete)] },
        );
        self.add("", PeerMessage::Leave);

        self.add("of a log", PeerMessage::LogMarks { marks: vec![mark(100_000), mark(99_000), mark(1)] });
        self.add("of an empty log", PeerMessage::LogMarks { marks: vec![] });
        let begin = LogMark { uid: Uid::MIN, position: 0, log_digest: Digest::ZERO };
        let (common, last, base, settled) = (Some(mark(99_000)), mark(100_001), mark(1), mark(98_000));
        self.add("of logs that begin alike", PeerMessage::CommonPrefix { common, last, base, settled });
        let nothing = PeerMessage::CommonPrefix { common: None, last: begin, base: begin, settled: begin };
        self.add("of logs that have nothing in common", nothing);
        self.add("", PeerMessage::FetchLog { after: uid(1) });
        let entries = |requests, is_end| PeerMessage::LogEntries { after: uid(1), requests, is_end };
        self.add("of which more follow", entries(vec![stamped(24, send("hello, bob"))], false));
        self.add("up to the end", entries(vec![stamped(25, Command::Delete)], true));
        self.add("after the last of a log", entries(vec![], true));

        let (log_digest, state_digest) = (Digest([0xd1; 32]), Digest([0xd2; 32]));
        let digests = BoundaryDigests { second: NOW.0 / 1_000_000_000, position: 100_000, log_digest, state_digest };
        self.add("", PeerMessage::Boundary { digests });

        self.add("", PeerMessage::Ping { sent: NOW });
        self.add("", PeerMessage::Pong { sent: NOW, clock: NOW.next(), is_log_time: false });
        self.add("of a clock that is ahead", PeerMessage::Pong { sent: NOW, clock: NOW.next(), is_log_time: true });
        self.add("", PeerMessage::Rejoin { above: 7 });

        self.add("of the first part", PeerMessage::FetchSnapshot { part: 0 });
        let row = SnapshotRow { family: 3, key: Bytes(b"alice".to_vec()), value: Bytes(vec![0xf6]), continues: false };
        self.add(
            "of which more follow",
            PeerMessage::SnapshotPart { part: 0, rows: vec![row], end: None, rows_total: 24 },
        );
        let (base, settled, applied) = (mark(1), uid(2), mark(100_000));
        let end =
            Some(SnapshotEnd { base, settled, applied, state_digest, log_bytes: 1 << 30, undo_digest: state_digest });
        self.add("that is the last", PeerMessage::SnapshotPart { part: 1, rows: vec![], end, rows_total: 24 });
        self.add("", PeerMessage::SnapshotBusy);
        self.add("", PeerMessage::ProbePing { sent: NOW });
        self.add("", PeerMessage::ProbePong { sent: NOW, clock: NOW.next() });
        self.add("", PeerMessage::NotHeld { uids: vec![uid(1)] });
        self.add("", PeerMessage::Fenced { replica: 2, epoch: 3 });
    }
}

/// A request in alice's session, with its uid.
fn stamped(sequence: u64, command: Command) -> StampedRequest {
    let actor = Some(Actor { account: account("alice"), key: secret_key().public() });
    let request = Request { client: CLIENT, sequence, actor, command };
    let stamped = StampedRequest { uid: request.uid(NOW), request };
    assert!(stamped.is_genuine());
    stamped
}

/// A position in a log.
fn mark(position: u64) -> LogMark {
    LogMark { uid: uid(position as u8), position, log_digest: Digest([position as u8; 32]) }
}
