//! The status of a cluster as JSON: one object a line, with everything that a replica reports.

use super::{ClusterStatus, Comparison, Report, clock_offset_ns, phase_in_words};
use crate::cli::visible::json_line;
use serde_json::{Value, json};
use stablechat_protocol::status::{Counters, PeerReport, ReportedLoss, ReportedPeerState, StatusReport};

/// One object for each replica, and one that says whether they are the same. Each ends with a newline.
pub fn lines(cluster_status: &ClusterStatus) -> String {
    let replicas = cluster_status.replicas.iter().map(|(name, report)| match report {
        Some(Report::Whole(report)) => replica(report),
        Some(Report::Public(status)) => json!({
            "type": "status",
            "replica": status.replica.as_str(),
            "in_reach": true,
            "status": phase_in_words(status.phase),
            "muted": status.is_muted,
            "position": status.position,
            "linked": status.linked,
        }),
        None => json!({"type": "status", "replica": name.as_str(), "in_reach": false}),
    });
    replicas.chain([comparison(cluster_status)]).map(|object| json_line(&object)).collect()
}

/// Whether the replicas are the same; its type in JSON is `verdict`.
fn comparison(cluster_status: &ClusterStatus) -> Value {
    let comparison = cluster_status.compare();
    let (serving, replicas) = (cluster_status.serving().count(), cluster_status.replicas.len());
    let mut object =
        json!({"type": "verdict", "state": comparison.to_string(), "serving": serving, "replicas": replicas});
    match comparison {
        Comparison::Same { second } => object["as_of_s"] = json!(second),
        Comparison::Different(detail) | Comparison::Unknown(detail) => object["detail"] = json!(detail),
    }
    object
}

/// The report of a replica in reach.
fn replica(report: &StatusReport) -> Value {
    json!({
        "type": "status",
        "replica": report.replica.as_str(),
        "in_reach": true,
        "version": report.version,
        "status": phase_in_words(report.phase),
        "muted": report.is_muted,
        "clock_off_by_ns": report.clock_off_by_ns(),
        "epoch": report.epoch,
        "restarts": report.restarts,
        "join_wait_ns": report.join_wait_ns,
        "position": report.applied.position,
        "uid": report.applied.uid.to_string(),
        "log_digest": report.applied.log_digest.to_string(),
        "state_digest": report.state_digest.to_string(),
        "boundaries": report.boundaries.iter().map(|digests| json!({
            "second": digests.second,
            "position": digests.position,
            "log_digest": digests.log_digest.to_string(),
            "state_digest": digests.state_digest.to_string(),
        })).collect::<Vec<Value>>(),
        "settled": report.settled,
        "clock_offset_ns": clock_offset_ns(report),
        "clock_ns": report.clock.0,
        "closed_ns": report.closed.0,
        "closed_lag_ns": report.clock.0.saturating_sub(report.closed.0),
        "grace_ns": report.grace_ns,
        "barrier": report.has_barrier,
        "pending": report.pending,
        "peers": report.peers.iter().map(|other| peer(report, other)).collect::<Vec<Value>>(),
        "catching_up": report.catching_up.as_ref().map(|progress| json!({
            "from": progress.from.as_str(),
            "snapshot": progress.is_snapshot,
            "received_bytes": progress.received_bytes,
            "bytes_per_second": progress.bytes_per_second,
            "done_percent": progress.done_percent,
        })),
        "counters": counters(&report.counters),
        "accounts": report.contents.accounts,
        "conversations": report.contents.conversations,
        "messages": report.contents.messages,
        "message_bytes": report.contents.message_bytes,
    })
}

fn peer(report: &StatusReport, peer: &PeerReport) -> Value {
    json!({
        "replica": peer.replica.as_str(),
        "state": match peer.state {
            ReportedPeerState::Unknown => "unknown",
            ReportedPeerState::CatchingUp => "catching up",
            ReportedPeerState::Linked => "linked",
            ReportedPeerState::Down => "down",
        },
        "lost": peer.loss.map(|loss| match loss {
            ReportedLoss::Dead => "dead",
            ReportedLoss::Silent => "silent",
            ReportedLoss::TooSlow => "too slow",
            ReportedLoss::Left => "left",
        }),
        "connected": peer.is_connected,
        "closed_lag_ns": peer.closed.map(|closed| report.clock.0.saturating_sub(closed.0)),
        "silence_ns": peer.silence_ns,
        "clock_offset_ns": peer.clock_offset_ns(report),
        "clock_apart": peer.clock_is_apart,
    })
}

fn counters(counters: &Counters) -> Value {
    json!({
        "closed": counters.closed,
        "real_time": counters.real_time,
        "queries": counters.queries,
        "refused": {
            "late": counters.refused.late,
            "ahead": counters.refused.ahead,
            "not_serving": counters.refused.not_serving,
            "overloaded": counters.refused.overloaded,
            "no_room": counters.refused.no_room,
            "too_fast": counters.refused.too_fast,
        },
        "peers_lost": {
            "dead": counters.lost.dead,
            "silent": counters.lost.silent,
            "too_slow": counters.lost.too_slow,
            "left": counters.lost.left,
        },
        "repairs": counters.repairs,
        "undone": counters.undone,
        "longest_repair_ns": counters.longest_repair_ns,
        "rejoins": counters.rejoins,
        "state_disagreements": counters.state_disagreements,
    })
}
