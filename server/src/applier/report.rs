//! The status report, made of what protocol and store show.

use super::Applier;
use super::measurements::nanoseconds;
use crate::net::ReplicaIdentity;
use crate::replica::{Loss, Overview, PeerOverview, PeerState, Phase};
use stablechat_protocol::status::{
    CatchUpProgress, PeerReport, ReportedLoss, ReportedPeerState, ReportedPhase, StatusReport,
};

impl Applier {
    /// The status report.
    pub fn report(&self) -> StatusReport {
        let overview = self.replica.overview();
        let applied = self.executor.store.applied();
        StatusReport {
            replica: self.identity.replica.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            phase: phase(&overview),
            is_muted: overview.is_muted,
            good_clock: overview.clock.ahead_ns().map(|ahead_ns| overview.now.offset_by(ahead_ns.saturating_neg())),
            epoch: overview.epoch,
            restarts: overview.restarts.into(),
            join_wait_ns: overview.join_wait.map(nanoseconds),
            applied: applied.mark(),
            state_digest: applied.state_digest,
            boundaries: self.boundaries.last(overview.now, &self.replica, &self.executor.store),
            settled: self.settled_position(),
            clock: overview.now,
            closed: overview.closed,
            grace_ns: nanoseconds(overview.grace),
            has_barrier: overview.has_barrier,
            pending: overview.pending as u64,
            peers: peers(&self.identity, &overview),
            catching_up: self.progress.report(overview.now, |peer| self.identity.name_of(peer)),
            counters: self.executor.measurements.counters(),
            contents: self.executor.store.contents(),
        }
    }
}

impl Applier {
    /// The same in one line for a person, shown by `systemctl status`.
    pub fn summary(&self) -> String {
        let overview = self.replica.overview();
        let catching_up = self.progress.report(overview.now, |peer| self.identity.name_of(peer));
        let doing = match (phase(&overview), catching_up) {
            (ReportedPhase::CatchingUp, _) if overview.join_wait.is_some() => {
                let wait = overview.join_wait.unwrap_or_default().as_secs_f64();
                format!("waiting for {wait:.0} s before it joins, after {} restarts", overview.restarts)
            }
            (ReportedPhase::CatchingUp, Some(CatchUpProgress { from, done_percent, .. })) => {
                format!("catching up, {done_percent} % of what {from} has")
            }
            (ReportedPhase::CatchingUp, None) if overview.clock.ahead_ns().is_some() => {
                "standing down: its clock is off".into()
            }
            (ReportedPhase::CatchingUp, None) => "catching up".into(),
            (ReportedPhase::Joining, _) => "joining".into(),
            (ReportedPhase::Serving, _) if overview.is_muted => {
                "answering nothing: in contact with too few replicas".into()
            }
            (ReportedPhase::Serving, _) => "serving".into(),
            (ReportedPhase::Stopping, _) => "stopping".into(),
        };
        let position = self.executor.store.applied().position;
        let mut text = format!("{doing}, position {position}");
        for (standing, words) in [
            (ReportedPeerState::Linked, "with"),
            (ReportedPeerState::CatchingUp, "catching up:"),
            (ReportedPeerState::Unknown, "not heard yet:"),
            (ReportedPeerState::Down, "down:"),
        ] {
            let peers = peers(&self.identity, &overview).into_iter().filter(|peer| peer.state == standing);
            let names: Vec<String> = peers.map(|peer| peer.replica.to_string()).collect();
            if !names.is_empty() {
                text += &format!(", {words} {}", names.join(" and "));
            }
        }
        text
    }

    /// The position of the last settled request, as it was when the last wake ended.
    fn settled_position(&self) -> u64 {
        // An error here shows up again where the mark is used for more than a report.
        self.executor.store.log().settled_mark().map_or(0, |mark| mark.position)
    }
}

fn phase(overview: &Overview) -> ReportedPhase {
    match overview.phase {
        _ if overview.is_stopping => ReportedPhase::Stopping,
        Phase::CatchingUp => ReportedPhase::CatchingUp,
        Phase::Joining => ReportedPhase::Joining,
        Phase::Serving => ReportedPhase::Serving,
    }
}

/// The other replicas of the cluster file.
fn peers(us: &ReplicaIdentity, overview: &Overview) -> Vec<PeerReport> {
    let named = |(id, entry)| overview.peers.iter().find(|peer| peer.id == id).map(|peer| (entry, peer));
    let report = |(entry, peer): (&stablechat_protocol::cluster::ReplicaEntry, &PeerOverview)| PeerReport {
        replica: entry.name.clone(),
        state: match peer.state {
            PeerState::Unknown => ReportedPeerState::Unknown,
            PeerState::CatchingUp => ReportedPeerState::CatchingUp,
            PeerState::Linked => ReportedPeerState::Linked,
            PeerState::Down => ReportedPeerState::Down,
        },
        loss: peer.loss.map(|loss| match loss {
            Loss::Dead => ReportedLoss::Dead,
            Loss::Silent => ReportedLoss::Silent,
            Loss::TooSlow => ReportedLoss::TooSlow,
            Loss::Left => ReportedLoss::Left,
        }),
        is_connected: peer.is_connected,
        closed: peer.closed,
        silence_ns: nanoseconds(peer.silence),
        clock: peer.clock_offset_ns.map(|offset| overview.now.offset_by(offset)),
        clock_is_apart: peer.clock_is_apart,
    };
    us.peers().filter_map(named).map(report).collect()
}

#[cfg(test)]
mod tests {
    use super::super::executor::RunningInsertion;
    use super::super::outbox::Outbox;
    use super::*;
    use crate::net::{EventBatch, NetCommand, NetEvent};
    use crate::replica::{Body, ConnectionId, PeerId, ProtocolSettings, Submission};
    use crate::store::{ChatStore, Location, schema};
    use stablechat_protocol::answer::{Answer, Rejection};
    use stablechat_protocol::cluster::Cluster;
    use stablechat_protocol::command::Command;
    use stablechat_protocol::login::SecretKey;
    use stablechat_protocol::message::ToClient;
    use stablechat_protocol::name::{AccountName, ReplicaName};
    use stablechat_protocol::operator::InitialSettings;
    use stablechat_protocol::request::StampedRequest;
    use stablechat_protocol::request::{Actor, Request};
    use stablechat_protocol::session::ClientId;
    use stablechat_protocol::time::Timestamp;
    use std::time::Duration;

    const START: Timestamp = Timestamp(1_700_000_000_000_000_000);

    fn at(milliseconds: u64) -> Timestamp {
        START.after(Duration::from_millis(milliseconds))
    }

    /// The only replica of a cluster.
    fn applier() -> Applier {
        let cluster =
            Cluster::parse("name = 'demo'\nid = '1'\n[[replica]]\nname = 'a'\naddress = 'x:1'\n").expect("a good file");
        let us = ReplicaIdentity::of(&cluster, &ReplicaName::parse("a").expect("a name")).expect("it is in the file");
        let owner = schema::StoreIdentity { cluster: "demo".into(), replica: "a".into() };
        let store =
            ChatStore::open(&Location::in_memory().expect("memory"), &owner, &InitialSettings::OPEN).expect("it opens");
        let (delivery_bound, ahead) = (Duration::from_secs(1), Duration::from_millis(50));
        let settings = ProtocolSettings {
            delivery_bound,
            ahead,
            place: PeerId(0),
            peers: vec![],
            min_live: 1,
            refusal_is_proof: true,
            depth_max: 100,
            piece_bytes: 1000,
            restarts_free: 3,
        };
        Applier::start(us, settings, store, START).expect("it starts")
    }

    /// A wake at a time by which everything was read. Returns the messages to clients.
    fn wake(applier: &mut Applier, time: Timestamp, events: Vec<NetEvent>) -> Vec<(ConnectionId, ToClient)> {
        let mut sent = Vec::new();
        let rounds = [EventBatch { events, drained: Some(time) }];
        applier.wake(rounds, || time, |batch| sent.extend(batch)).expect("memory does not fail");
        let to_client = |sent| match sent {
            NetCommand::ToClients { to, message } => to.into_iter().map(|to| (to, message.clone())).collect(),
            _ => Vec::new(),
        };
        sent.into_iter().flat_map(to_client).collect()
    }

    /// The first request of a session, which makes the account alice.
    fn create(session: u8) -> Request {
        let (name, key) = (AccountName::parse("alice").expect("a name"), SecretKey::from_seed(&[session; 32]).public());
        let command = Command::Create { name, key, invitation: None };
        Request { client: ClientId([session; 16]), sequence: 1, actor: None, command }
    }

    fn issue(time: Timestamp, from: ConnectionId, request: Request) -> NetEvent {
        NetEvent::Request(Submission { time, from, timestamp: time, body: Body::Request(request), too_fast: None })
    }

    #[test]
    fn each_who_asks_gets_one_report_and_strangers_little() {
        let mut applier = applier();
        wake(&mut applier, at(1), vec![]);
        wake(&mut applier, at(2000), vec![issue(at(2000), ConnectionId(5), create(1))]);
        let ask = |number| NetEvent::Status { from: ConnectionId(number) };
        let late = issue(at(1), ConnectionId(5), create(2));
        let login = |number, name: &str, key: u8| {
            let key = SecretKey::from_seed(&[key; 32]).public();
            let actor = Actor { account: AccountName::parse(name).expect("a name"), key };
            NetEvent::LoggedIn { connection: ConnectionId(number), actor, receive: false }
        };
        let logins = vec![login(7, "alice", 1), login(8, "alice", 2), login(9, "operator", 3)];
        wake(&mut applier, at(3000), logins);
        let sent = wake(&mut applier, at(4000), vec![ask(8), late, ask(9), ask(7), ask(8), ask(6)]);
        let (mut whole, mut public) = (Vec::new(), Vec::new());
        for (to, message) in sent {
            match message {
                ToClient::Status { report } => whole.push((to, report)),
                ToClient::PublicStatus { status } => public.push((to, status)),
                _ => {}
            }
        }
        let strangers: Vec<ConnectionId> = public.iter().map(|(to, _)| *to).collect();
        assert_eq!(strangers, [ConnectionId(6), ConnectionId(8)], "nobody, and one with another key");
        let [(ConnectionId(7), report), (ConnectionId(9), same)] = &whole[..] else { panic!("{whole:?}") };
        assert_eq!((report, public[0].1.position), (same, 1));
        assert_eq!((report.phase, report.is_serving(), report.applied.position), (ReportedPhase::Serving, true, 1));
        assert_eq!((report.counters.closed + report.counters.real_time, report.counters.refused.late), (1, 1));
        assert_eq!((report.clock, report.pending, report.has_barrier), (at(4000), 0, false));
        let known: Vec<u64> = report.boundaries.iter().map(|digests| digests.second).collect();
        assert_eq!(known, (1_699_999_995..=1_700_000_002).collect::<Vec<u64>>(), "up to a bound and a second ago");
    }

    #[test]
    fn a_changed_answer_is_told_where_its_session_was_last_heard() {
        let mut applier = applier();
        wake(&mut applier, at(1), vec![]);
        let events = vec![issue(at(2000), ConnectionId(4), create(1)), issue(at(2000), ConnectionId(5), create(1))];
        wake(&mut applier, at(2000), events);
        wake(&mut applier, at(4000), vec![]);
        let earlier = create(2);
        let mut outbox = Outbox::default();
        let held = vec![StampedRequest { uid: earlier.uid(at(1500)), request: earlier }];
        let repair = applier.executor.store.insert(held).expect("memory does not fail");
        assert_eq!(repair.undone, 1);
        let mut insertion = RunningInsertion::new(at(4000), vec![]);
        applier.executor.tell(repair, &mut insertion, &mut outbox);
        let mut sent = Vec::new();
        outbox.release(&mut |batch| sent.extend(batch));
        let name = AccountName::parse("alice").expect("a name");
        let answer = Answer::Rejected { reason: Rejection::AlreadyExists { name } };
        let (client, uid) = (ClientId([1; 16]), create(1).uid(at(2000)));
        let message = ToClient::Changed { client, sequence: 1, uid, answer };
        assert_eq!(sent, [NetCommand::ToClients { to: vec![ConnectionId(5)], message }]);
    }
}
