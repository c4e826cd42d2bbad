//! A replica's metrics, in Prometheus' text format.
//!
//! Most values are looked up at each scrape, in the same report that `stablechat status` shows. Only what cannot be found out
//! afterwards is recorded as it happens: [`ExtraCounters`] and [`Histograms`].
//!
//! Names and units follow Prometheus' conventions: base units (seconds, bytes), and `_total` for values that only grow.
//! Prometheus' own label `instance` tells replicas apart; `stablechat_replica_info` gives their names.

mod page;
mod process;

use crate::net::NetStats;
use crate::store::Sizes;
use page::Page;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::histogram::Histogram;
use stablechat_protocol::name::ClusterName;
use stablechat_protocol::status::{
    Counters, PeerReport, ReportedPeerState, ReportedPhase, StateContents, StatusReport,
};
use std::fmt;
use std::time::Duration;

/// The upper ends of the buckets for answers, in seconds. Answers by the closed test take milliseconds; those by the real-time
/// test take the delivery bound, which is 10 ms to 60 s.
const LATENCY_BUCKETS: [f64; 16] =
    [0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// The upper ends of the buckets for commits, in seconds. Most of a commit is waiting for the disk to sync.
const COMMIT_BUCKETS: [f64; 13] = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0];

/// Counters that a status report does not have, beside its [`Counters`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ExtraCounters {
    /// Queries answered by the closed test.
    pub closed_queries: u64,
    /// Answers that repairs changed.
    pub changed: u64,
    /// The time that all repairs took together.
    pub repairing: Duration,
    /// Comparisons at a boundary that found equal logs and states.
    pub same: u64,
    /// Comparisons at a boundary that found different logs.
    pub logs_differ: u64,
    /// Comparisons that could not be made, e.g. because this replica no longer has the digests of that boundary.
    pub unknown: u64,
    /// Requests of a peer's log that have another body than ours of the same uid.
    pub other_bodies: u64,
    /// Snapshots that were sent to a peer completely.
    pub snapshots_sent: u64,
    /// Snapshots of a peer that replaced this replica's data.
    pub snapshots_installed: u64,
}

/// Durations, in seconds.
#[derive(Clone, Debug)]
pub struct Histograms {
    /// From a request's timestamp to its answer, by the closed test.
    pub closed: Histogram,
    /// From a request's timestamp to its answer, by the real-time test.
    pub real_time: Histogram,
    /// Writing a batch of applied requests, with its sync.
    pub commit: Histogram,
}

impl Default for Histograms {
    fn default() -> Histograms {
        Histograms {
            closed: Histogram::new(LATENCY_BUCKETS),
            real_time: Histogram::new(LATENCY_BUCKETS),
            commit: Histogram::new(COMMIT_BUCKETS),
        }
    }
}

/// Everything that a scrape shows.
#[derive(Debug)]
pub struct MetricsSnapshot {
    pub cluster: ClusterName,
    /// Δ.
    pub delivery_bound: Duration,
    pub report: StatusReport,
    pub extra: ExtraCounters,
    pub histograms: Histograms,
    pub net: NetStats,
    /// The sizes of the store; none when they cannot be found out.
    pub sizes: Option<Sizes>,
}

impl MetricsSnapshot {
    /// The metrics in Prometheus' text format.
    pub fn text(self) -> String {
        page::text(self)
    }

    fn write_replica(&self, page: &mut Page) -> fmt::Result {
        let MetricsSnapshot { cluster, report, .. } = self;
        let labels =
            [("cluster", cluster.as_str()), ("replica", report.replica.as_str()), ("version", &report.version)];
        page.gauges("stablechat_replica_info", "Which replica this is; always 1.", [(labels, 1)])?;
        let phases = [
            ("catching_up", ReportedPhase::CatchingUp),
            ("joining", ReportedPhase::Joining),
            ("serving", ReportedPhase::Serving),
            ("stopping", ReportedPhase::Stopping),
        ];
        let phases = phases.map(|(name, phase)| ([("status", name)], flag(report.phase == phase)));
        page.gauges("stablechat_status", "1 for what the replica is doing now, 0 for the other statuses.", phases)?;
        page.gauge(
            "stablechat_muted",
            "1 while it serves but answers nothing: in contact with fewer than min_live replicas, or its clock is off.",
            flag(report.is_muted),
        )?;
        page.gauge("stablechat_epoch", "Number of its incarnation; grows at every start and rejoin.", report.epoch)?;
        page.gauge(
            "stablechat_restarts",
            "Times that it has begun anew, by a restart or a rejoin, since it was last stable.",
            report.restarts,
        )?;
        page.gauge(
            "stablechat_join_wait_seconds",
            "How much longer it waits before it joins, because of its restarts; 0 while it does not wait.",
            report.join_wait_ns.unwrap_or_default() as f64 / 1e9,
        )?;
        page.gauge(
            "stablechat_applied_position",
            "Requests applied since the log began, truncated ones included.",
            report.applied.position,
        )?;
        page.gauge(
            "stablechat_settled_position",
            "Position up to which the log is settled: equal at all replicas.",
            report.settled,
        )?;
        page.gauge("stablechat_pending", "Requests and queries held and not yet applied.", report.pending)?;
        page.gauge(
            "stablechat_delivery_bound_seconds",
            "The delivery bound of the cluster file.",
            self.delivery_bound.as_secs_f64(),
        )
    }

    fn write_clocks(&self, page: &mut Page) -> fmt::Result {
        let MetricsSnapshot { report, net, .. } = self;
        page.gauge(
            "stablechat_closed_lag_seconds",
            "How far its closed timestamp is behind its clock.",
            report.clock.since(report.closed).as_secs_f64(),
        )?;
        page.gauge(
            "stablechat_grace_seconds",
            "How far it keeps its closed timestamp behind its clock.",
            seconds(report.grace_ns),
        )?;
        page.gauge(
            "stablechat_barrier",
            "1 while answers may take the delivery bound, because a replica started or fell silent.",
            flag(report.has_barrier),
        )?;
        page.gauge(
            "stablechat_clock_off",
            "1 while it stands down because its clock differs from those of replicas that go on.",
            flag(report.clock_off_by_ns().is_some()),
        )?;
        page.counter("stablechat_clock_steps_total", "Times that its wall clock was set.", net.clock_steps)?;
        let ends = [
            ([("certificate", "replica")], net.certificate_until as f64),
            ([("certificate", "authority")], net.authority_until as f64),
        ];
        page.gauges(
            "stablechat_certificate_expiry_timestamp_seconds",
            "When its certificate and that of the authority in its cluster file end.",
            ends,
        )
    }

    fn write_peers(&self, page: &mut Page) -> fmt::Result {
        let report = &self.report;
        let each = |value: fn(&PeerReport) -> f64| {
            report.peers.iter().map(move |peer| ([("peer", peer.replica.as_str())], value(peer)))
        };
        page.gauges(
            "stablechat_peer_connected",
            "1 while there is a connection with the peer.",
            each(|peer| f64::from(flag(peer.is_connected))),
        )?;
        page.gauges(
            "stablechat_peer_linked",
            "1 while the peer is consulted before anything is answered.",
            each(|peer| f64::from(flag(peer.state == ReportedPeerState::Linked))),
        )?;
        let lost = report.counters.lost;
        let losses = [
            ([("how", "dead")], lost.dead),
            ([("how", "silent")], lost.silent),
            ([("how", "too_slow")], lost.too_slow),
            ([("how", "left")], lost.left),
        ];
        page.counters(
            "stablechat_peers_lost_total",
            "Peers lost: dead for certain; silent for the delivery bound; too slow; or stopped.",
            losses,
        )?;
        page.gauges(
            "stablechat_peer_silence_seconds",
            "Time since the peer was last heard.",
            each(|peer| seconds(peer.silence_ns)),
        )?;
        let offsets = report.peers.iter().filter_map(|peer| {
            let offset_ns = peer.clock_offset_ns(report)?;
            Some(([("peer", peer.replica.as_str())], offset_ns as f64 / 1e9))
        });
        page.gauges("stablechat_peer_clock_offset_seconds", "How far the peer's clock is ahead of ours.", offsets)?;
        page.gauges(
            "stablechat_peer_clock_apart",
            "1 while the peer's clock differs from ours by more than the delivery bound has room for.",
            each(|peer| f64::from(flag(peer.clock_is_apart))),
        )?;
        let lags = report.peers.iter().filter_map(|peer| {
            Some(([("peer", peer.replica.as_str())], report.clock.since(peer.closed?).as_secs_f64()))
        });
        page.gauges(
            "stablechat_peer_closed_lag_seconds",
            "How far the peer's closed timestamp is behind our clock.",
            lags,
        )
    }

    fn write_answers(&self, page: &mut Page) -> fmt::Result {
        let (Counters { closed, real_time, queries, refused, .. }, extra) = (self.report.counters, self.extra);
        let (closed_queries, late_queries) = (extra.closed_queries, queries - extra.closed_queries);
        let answers = [
            ([("kind", "request"), ("test", "closed")], closed - closed_queries),
            ([("kind", "request"), ("test", "real_time")], real_time - late_queries),
            ([("kind", "query"), ("test", "closed")], closed_queries),
            ([("kind", "query"), ("test", "real_time")], late_queries),
        ];
        page.counters(
            "stablechat_answers_total",
            "Requests applied and queries answered, by the test by which they were stable.",
            answers,
        )?;
        let reasons = [
            ([("reason", "late")], refused.late),
            ([("reason", "ahead")], refused.ahead),
            ([("reason", "not_serving")], refused.not_serving),
            ([("reason", "overloaded")], refused.overloaded),
            ([("reason", "no_room")], refused.no_room),
            ([("reason", "too_fast")], refused.too_fast),
        ];
        page.counters("stablechat_refusals_total", "Requests and queries refused.", reasons)?;
        let tests =
            [([("test", "closed")], &self.histograms.closed), ([("test", "real_time")], &self.histograms.real_time)];
        page.histograms(
            "stablechat_answer_latency_seconds",
            "Time from the timestamp of a request or query to its answer.",
            tests,
        )?;
        page.histogram(
            "stablechat_commit_duration_seconds",
            "Time to write a batch of requests, with its sync.",
            &self.histograms.commit,
        )?;
        page.gauge("stablechat_clients", "Connections of clients.", self.net.clients)?;
        page.gauge("stablechat_write_buffer_bytes", "Bytes queued for clients and peers.", self.net.unwritten_bytes)?;
        page.gauge(
            "stablechat_read_buffer_bytes",
            "Memory of incoming frames that are incomplete or not handled.",
            self.net.incoming_bytes,
        )?;
        let reasons = [
            ([("reason", "no_hello")], self.net.strangers_dropped),
            ([("reason", "full")], self.net.clients_ended),
            ([("reason", "memory")], self.net.hoarders_ended),
        ];
        page.counters(
            "stablechat_dropped_connections_total",
            "Connections ended for the sake of others: without a hello; for a new client; for not reading or for their memory.",
            reasons,
        )
    }

    fn write_repairs(&self, page: &mut Page) -> fmt::Result {
        let (counters, extra) = (self.report.counters, self.extra);
        page.counter(
            "stablechat_repairs_total",
            "Repairs: times that requests were inserted below the end of the log.",
            counters.repairs,
        )?;
        page.counter("stablechat_undone_total", "Requests that repairs undid and applied again.", counters.undone)?;
        page.counter("stablechat_changed_answers_total", "Answers that repairs changed.", extra.changed)?;
        page.counter("stablechat_repair_seconds_total", "Time that repairs took.", extra.repairing.as_secs_f64())?;
        page.counter(
            "stablechat_rejoins_total",
            "Times that it took a new epoch without having been restarted.",
            counters.rejoins,
        )?;
        let results = [
            ([("result", "same")], extra.same),
            ([("result", "logs_differ")], extra.logs_differ),
            ([("result", "states_differ")], counters.state_disagreements),
            ([("result", "unknown")], extra.unknown),
        ];
        page.counters(
            "stablechat_comparisons_total",
            "Comparisons with a peer at a boundary. Any states_differ is a bug.",
            results,
        )?;
        page.counter(
            "stablechat_other_bodies_total",
            "Requests of which a peer's log has another body under the same uid; found once a second.",
            extra.other_bodies,
        )?;
        let directions = [
            ([("direction", "sent")], extra.snapshots_sent),
            ([("direction", "installed")], extra.snapshots_installed),
        ];
        page.counters("stablechat_snapshots_total", "Snapshots that were transferred completely.", directions)
    }

    fn write_contents(&self, page: &mut Page) -> fmt::Result {
        let StateContents { accounts, conversations, messages, message_bytes } = self.report.contents;
        page.gauge("stablechat_accounts", "Accounts that exist.", accounts)?;
        page.gauge("stablechat_conversations", "Conversations, of two accounts and in rooms.", conversations)?;
        page.gauge("stablechat_messages", "Messages that are stored.", messages)?;
        page.gauge("stablechat_message_bytes", "Bytes of all messages as stored, before compression.", message_bytes)
    }

    fn write_sizes(&self, page: &mut Page) -> fmt::Result {
        let Some(sizes) = &self.sizes else { return Ok(()) };
        page.gauge("stablechat_log_bytes", "Size of the log that is kept, uncompressed.", sizes.log)?;
        page.gauge("stablechat_store_live_bytes", "Estimated size of all rows in RocksDB's files.", sizes.live)?;
        page.gauge(
            "stablechat_store_memtable_bytes",
            "Size of RocksDB's memtables: data in memory that is not in its files yet.",
            sizes.memtables,
        )?;
        page.gauge("stablechat_store_wal_bytes", "Size of RocksDB's write-ahead log.", sizes.write_ahead_log)?;
        page.gauge(
            "stablechat_disk_available_bytes",
            "Free space on the file system of the data directory.",
            sizes.available,
        )
    }
}

impl Collector for MetricsSnapshot {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page::new(encoder);
        self.write_replica(&mut page)?;
        self.write_clocks(&mut page)?;
        self.write_peers(&mut page)?;
        self.write_answers(&mut page)?;
        self.write_repairs(&mut page)?;
        self.write_contents(&mut page)?;
        self.write_sizes(&mut page)?;
        process::write(&mut page)
    }
}

/// Prometheus has no booleans.
fn flag(is_so: bool) -> u32 {
    is_so.into()
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}
