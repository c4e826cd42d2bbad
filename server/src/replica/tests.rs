//! The protocol by golden scripts, one scenario a file, in `replica/scripts`.
//!
//! Times are in milliseconds, with up to six decimals. Δ is 1,000 ms, timestamps may be 50 ms ahead, and the grace begins at
//! Δ/N. A request is known by its name; requests of one name and time are the same request. A replica has no peers unless
//! `cluster` gives it some, `b` and `c`. What it wants done is printed, but for pings, and after each block how it stands.

use super::*;
use crate::golden::golden_scripts;
use goldenscript::{ArgumentConsumer, Context, Runner};
use stablechat_protocol::answer::{Refusal, Stability};
use stablechat_protocol::command::{Command, Query};
use stablechat_protocol::conversation::Conversation;
use stablechat_protocol::login::SecretKey;
use stablechat_protocol::name::{AccountName, Pattern};
use stablechat_protocol::request::{QueryRequest, Request, RequestId};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::text::MessageText;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const MILLISECOND: u64 = 1_000_000;
const DELIVERY_BOUND: Duration = Duration::from_millis(1000);
const AHEAD: Duration = Duration::from_millis(50);

/// A replica, and what a script calls things.
struct Script {
    replica: Replica,
    /// The names of requests and queries.
    names: BTreeMap<RequestId, String>,
}

impl Script {
    /// A replica without peers that has applied nothing and starts at 10,000 ms.
    fn new() -> Script {
        Script { replica: start(10_000, Uid::MIN, 0), names: BTreeMap::new() }
    }

    fn name(&self, id: RequestId) -> &str {
        &self.names[&id]
    }

    /// The request of this uid, by its name if a script has named it.
    fn called(&self, uid: &Uid) -> String {
        let name = self.names.values().find(|name| request(name).uid(uid.timestamp) == *uid);
        format!("{} of {}", name.map_or("?", String::as_str), show(uid.timestamp))
    }

    /// Several requests.
    fn list(&self, uids: impl IntoIterator<Item = Uid>) -> String {
        uids.into_iter().map(|uid| self.called(&uid)).collect::<Vec<_>>().join(", ")
    }

    /// A message to or from a peer.
    fn message(&self, message: &PeerMessage) -> String {
        match message {
            PeerMessage::Incarnation { epoch, has_joined } => {
                let and = if *has_joined { ", which has joined" } else { "" };
                format!("incarnation {epoch}{and}")
            }
            PeerMessage::Listed { uids } => format!("listed [{}]", self.list(uids.iter().copied())),
            PeerMessage::Join { closed } => format!("join, closed {}", show(*closed)),
            PeerMessage::Welcome { to, applied, grace_ns } => {
                format!("welcome to {to}, applied {}, grace {} ms", show(*applied), grace_ns / MILLISECOND)
            }
            PeerMessage::Announce { closed, uids } => {
                format!("announce closed {}, [{}]", show(*closed), self.list(uids.iter().copied()))
            }
            PeerMessage::Fetch { uids } => format!("fetch [{}]", self.list(uids.iter().copied())),
            PeerMessage::FetchLog { after } => format!("fetch log after {}", show(after.timestamp)),
            PeerMessage::NotHeld { uids } => format!("not held [{}]", self.list(uids.iter().copied())),
            PeerMessage::Leave => "leave".into(),
            PeerMessage::Rejoin { above } => format!("rejoin above {above}"),
            PeerMessage::Fenced { replica, epoch } => {
                format!("fenced {} up to {epoch}", peer_name(PeerId(*replica)))
            }
            other => format!("{other:?}"),
        }
    }

    /// An output as a script shows it; none for outputs that only follow the clock.
    fn describe(&self, output: &Output) -> Option<String> {
        Some(match output {
            Output::Change(StoreChange::Apply { uid, body, stability, copies, waiting }) => {
                assert_eq!(*uid, body.uid(uid.timestamp));
                let waiting = waiting.iter().fold(String::new(), |line, connection| format!("{line} {}", connection.0));
                let test = match stability {
                    Stability::Closed => "closed",
                    Stability::RealTime => "real time",
                };
                let name = self.name(body.id());
                format!("apply {name} of {}, {test}, copies {copies}, answer to{waiting}", show(uid.timestamp))
            }
            Output::Change(StoreChange::Insert { requests, waiting }) => {
                let waiting = waiting.iter().flat_map(|(_, waiting)| waiting);
                let waiting = waiting.fold(String::new(), |line, connection| format!("{line} {}", connection.0));
                format!("insert {}, answer to{waiting}", self.list(requests.iter().map(|held| held.uid)))
            }
            Output::Effect(Effect::Refuse { to, request, timestamp, reason }) => {
                let wait = match reason.wait() {
                    Duration::ZERO => String::new(),
                    wait => format!("; again in {} ms", wait.as_millis()),
                };
                format!("refuse {} of {} to {}: {reason}{wait}", self.name(*request), show(*timestamp), to.0)
            }
            Output::Effect(Effect::Send { message: PeerMessage::Ping { .. }, .. }) => return None,
            Output::Effect(Effect::Send { to, message }) => format!("to {}: {}", peer_name(*to), self.message(message)),
            Output::Effect(Effect::SendBodies { to, pending, logged }) => {
                let all = pending.iter().map(|held| held.uid).chain(logged.iter().copied());
                format!("to {}: bodies [{}]", peer_name(*to), self.list(all))
            }
            Output::Read(LogRead { to, part }) => {
                let part = match part {
                    LogPart::Marks => "log marks",
                    LogPart::CommonPrefix { .. } => "common prefix",
                    LogPart::Entries { .. } => "log entries",
                    LogPart::SnapshotPart { .. } => "snapshot part",
                };
                format!("to {}: {part}", peer_name(*to))
            }
            Output::Change(StoreChange::TakeSnapshotPart { from, .. }) => {
                format!("take a snapshot part of {}", peer_name(*from))
            }
            Output::Effect(Effect::ConnectionSeen { peer }) => format!("{} is seen", peer_name(*peer)),
            Output::Effect(Effect::Disconnect { peer }) => format!("disconnect {}", peer_name(*peer)),
            Output::Effect(Effect::NewEpoch { epoch, .. }) => format!("new epoch {epoch}"),
            Output::Effect(Effect::PeerLost { peer, loss }) => format!("{} is lost: {loss:?}", peer_name(*peer)),
            Output::Effect(Effect::Incomplete { peer, lacking }) => {
                format!("incomplete: only {} has {lacking} requests", peer_name(*peer))
            }
            Output::Effect(Effect::AskAddress { peer, number }) => {
                format!("ask the address of {}, question {number}", peer_name(*peer))
            }
            Output::Effect(Effect::Stable) => "stable".into(),
            Output::Effect(Effect::RaiseClock { to }) => format!("raise the clock to {}", show(*to)),
            Output::Effect(Effect::LogUnmendable) => "the log cannot be mended".into(),
            Output::Effect(Effect::Stopped) => "stopped".into(),
        })
    }

    /// Outputs as a script shows them, a line each.
    fn describe_all(&self, outputs: &[Output]) -> String {
        let lines = outputs.iter().filter_map(|output| self.describe(output));
        lines.fold(String::new(), |text, line| text + &line + "\n")
    }

    /// Lets a request or query arrive.
    fn arrive(&mut self, is_query: bool, arguments: &mut ArgumentConsumer<'_>) -> Result<Input> {
        let name = arguments.next_pos().ok_or("whose name is missing")?;
        let timestamp = time(arguments.take_key("of").ok_or("of when is missing")?)?;
        let read = arguments.take_key("at").map_or(Ok(timestamp), time)?;
        let from = ConnectionId(arguments.take_key("from").map_or(Ok(1), str::parse)?);
        let body = if is_query { query(name) } else { request(name) };
        self.names.insert(body.id(), name.to_string());
        // Golden scripts that do not say so are about requests of one account.
        let sender = match arguments.take_key("sender") {
            Some("stranger") => Sender::Stranger,
            name => Sender::Account(AccountName::parse(name.unwrap_or("alice"))?),
        };
        // How much too fast it comes, in milliseconds, by the rates of the poll loop.
        let too_fast = arguments.take_key("too_fast").map(time).transpose()?;
        let too_fast = too_fast.map(|wait| wait.since(Timestamp::ZERO));
        Ok(Input::Request { submission: Submission { time: read, from, timestamp, body, too_fast }, sender })
    }
}

impl Script {
    /// What a peer says: `from b join at=10000 epoch=1 closed=9000`, or with requests as `name@time`. With what it is, it tells its
    /// clock, which agrees with ours unless `clock` says what it shows, or that it is unknown. `sent` is when it was asked for
    /// that.
    ///
    /// On a new connection it first says which incarnation it is, whether or not the script says so: the one that we know.
    fn said(&mut self, arguments: &mut ArgumentConsumer<'_>) -> Result<Vec<Input>> {
        let mut inputs = self.said_alone(arguments)?;
        if let Some(Input::Peer { time, peer, .. } | Input::LogCompared { time, peer, .. }) = inputs.first()
            && !matches!(inputs.first(), Some(Input::Peer { message: PeerMessage::Incarnation { .. }, .. }))
            && let Some(known) = self.replica.peers.get(*peer).filter(|known| known.is_connected && !known.is_met)
            && let epoch = known.epoch.unwrap_or(1)
            && epoch > known.fenced
        {
            let message = PeerMessage::Incarnation { epoch, has_joined: false };
            inputs.insert(0, Input::Peer { time: *time, peer: *peer, message });
        }
        Ok(inputs)
    }

    fn said_alone(&mut self, arguments: &mut ArgumentConsumer<'_>) -> Result<Vec<Input>> {
        let other = arguments.take_key("of").map(|name| peer(Some(name))).transpose()?;
        let peer = peer(arguments.next_pos())?;
        let what = arguments.next_pos().ok_or("what it says is missing")?;
        let time_of = |key: Option<&str>| key.map_or(Ok(Timestamp::ZERO), time);
        let at = time_of(arguments.take_key("at"))?;
        let epoch = arguments.take_key("epoch").map_or(Ok(1), str::parse)?;
        let closed = time_of(arguments.take_key("closed"))?;
        let applied = time_of(arguments.take_key("applied"))?;
        let clock = match arguments.take_key("clock") {
            Some("unknown") => None,
            clock => Some(clock.map_or(Ok(at), time)?),
        };
        let sent = arguments.take_key("sent").map_or(Ok(at), time)?;
        let is_log_time = arguments.take_key("log_time").map_or(Ok(false), str::parse)?;
        let pong = |clock| Input::Peer { time: at, peer, message: PeerMessage::Pong { sent, clock, is_log_time } };
        let pong = clock.map(pong);
        let at_time = |timestamp| Uid { timestamp, digest: [0; 16] };
        let after = at_time(time_of(arguments.take_key("after"))?);
        let next = arguments.take_key("next").map(time).transpose()?.map(at_time);
        let depth = arguments.take_key("depth").map_or(Ok(0), str::parse)?;
        let grace_ms: u64 = arguments.take_key("grace_ms").map_or(Ok(1000), str::parse)?;
        let end = arguments.take_key("end");
        let mut requests = Vec::new();
        while let Some(text) = arguments.next_pos() {
            let (name, of) = text.split_once('@').ok_or("a request is NAME@TIME")?;
            let (body, timestamp) = (request(name), time(of)?);
            self.names.insert(body.id(), name.to_string());
            let (uid, Body::Request(request)) = (body.uid(timestamp), body) else { continue };
            requests.push(StampedRequest { uid, request });
        }
        let uids = requests.iter().map(|held| held.uid).collect();
        let message = match what {
            "incarnation" => PeerMessage::Incarnation { epoch, has_joined: false },
            "listed" => PeerMessage::Listed { uids },
            "join" => PeerMessage::Join { closed },
            "welcome" => PeerMessage::Welcome { to: epoch, applied, grace_ns: grace_ms * MILLISECOND },
            "pong" => return Ok(pong.into_iter().collect()),
            "announce" => PeerMessage::Announce { closed, uids },
            "fetch" => PeerMessage::Fetch { uids },
            "bodies" => PeerMessage::Bodies { requests },
            "not_held" => PeerMessage::NotHeld { uids },
            "leave" => PeerMessage::Leave,
            "rejoin" => PeerMessage::Rejoin { above: epoch },
            "fenced" => PeerMessage::Fenced { replica: other.ok_or("whom it has fenced is missing")?.0, epoch },
            // What comes of comparing its log with ours.
            "in_sync" => {
                let end = end.map(time).transpose()?;
                return Ok(vec![Input::LogCompared { time: at, peer, after: None, depth: 0, end }]);
            }
            "ahead" => return Ok(vec![Input::LogCompared { time: at, peer, after: Some(Uid::MIN), depth, end: None }]),
            "entries" => return Ok(vec![Input::LogEntries { time: at, peer, after, missing: requests, next }]),
            _ => return Err(format!("peers do not say {what}").into()),
        };
        let tells_clock = matches!(message, PeerMessage::Incarnation { .. } | PeerMessage::Join { .. });
        // A join is said by an incarnation that has said what it is.
        let incarnation =
            matches!(message, PeerMessage::Join { .. }).then_some(PeerMessage::Incarnation { epoch, has_joined: true });
        let said = incarnation.into_iter().chain([message]).map(|message| Input::Peer { time: at, peer, message });
        Ok(said.chain(pong.filter(|_| tells_clock)).collect())
    }
}

impl Runner for Script {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &goldenscript::Command, _: &Context) -> Result<String> {
        let mut arguments = command.consume_args();
        let inputs = match command.name.as_str() {
            "request" => vec![self.arrive(false, &mut arguments)?],
            "query" => vec![self.arrive(true, &mut arguments)?],
            // A wake. All messages before it count as drained at its time, unless the command gives another time.
            "wake" => {
                let now = time(arguments.next_pos().ok_or("the time is missing")?)?;
                let drained = arguments.take_key("drained").map_or(Ok(now), time)?;
                let mut outputs = Vec::new();
                run_wake(&mut self.replica, now, drained, &mut outputs);
                arguments.reject_next()?;
                return Ok(self.describe_all(&outputs));
            }
            "woken" => vec![Input::Woken { time: time(arguments.next_pos().ok_or("the time is missing")?)? }],
            "inserted" => vec![Input::Inserted { applied: Uid::MIN }],
            "logs_differ" => {
                let is_ours_shorter = arguments.take_key("shorter").map_or(Ok(false), str::parse)?;
                vec![Input::LogsDiffer { peer: peer(arguments.next_pos())?, is_ours_shorter }]
            }
            "stop" => vec![Input::Stop],
            "room" => vec![Input::Room { has_room: arguments.next_pos().ok_or("yes or no is missing")? == "yes" }],
            "halted" => vec![Input::Halted],
            "connect" => vec![Input::PeerConnected { peer: peer(arguments.next_pos())? }],
            "refused" => {
                let number = arguments.take_key("number").map_or(Ok(1), str::parse)?;
                vec![Input::AddressRefused { peer: peer(arguments.next_pos())?, number }]
            }
            "disconnect" => vec![Input::PeerDisconnected { peer: peer(arguments.next_pos())? }],
            "from" => self.said(&mut arguments)?,
            "restart" | "cluster" => {
                let now = arguments.next_pos().ok_or("the time is missing")?.parse()?;
                let applied = Uid::new(arguments.take_key("applied").map_or(Ok(Timestamp::ZERO), time)?, b"");
                self.replica = start(now, applied, if command.name == "cluster" { 2 } else { 0 });
                return Ok(String::new());
            }
            // A replica that serves with both peers, linked, at this time, and has done so for longer than any barrier lasts.
            "serving" => {
                let now: u64 = arguments.next_pos().ok_or("the time is missing")?.parse()?;
                self.replica = serving(now - 1000);
                for milliseconds in (now - 1000..=now).step_by(250) {
                    let time = Timestamp(milliseconds * MILLISECOND);
                    for peer in [PeerId(1), PeerId(2)] {
                        let message = PeerMessage::Announce { closed: time.before(AHEAD), uids: vec![] };
                        self.replica.step(Input::Peer { time, peer, message }, &mut Vec::new());
                    }
                    wake(&mut self.replica, time);
                }
                return Ok(String::new());
            }
            name => return Err(format!("there is no command {name}").into()),
        };
        arguments.reject_next()?;
        let mut outputs = Vec::new();
        inputs.into_iter().for_each(|input| self.replica.step(input, &mut outputs));
        Ok(self.describe_all(&outputs))
    }

    fn end_block(&mut self, _: &goldenscript::Block) -> Result<String> {
        let mut text = String::new();
        let (pending, closed) = (self.replica.pending(), show(self.replica.closing.closed()));
        let phase = match self.replica.phase() {
            Phase::CatchingUp => "catching up",
            Phase::Joining => "joining",
            Phase::Serving => "serving",
        };
        write!(text, "{phase}, {pending} pending, closed {closed}, barrier {}", show(self.replica.barrier))?;
        match self.replica.deadline() {
            Some(deadline) => writeln!(text, ", next wake at {}", show(deadline))?,
            None => writeln!(text)?,
        }
        Ok(text)
    }
}

/// A replica that starts at this time, in milliseconds, with so many peers.
fn start(now_ms: u64, applied: Uid, peers: u8) -> Replica {
    start_again(now_ms, applied, peers, 0)
}

/// The same after so many restarts.
fn start_again(now_ms: u64, applied: Uid, peers: u8, restarts: u32) -> Replica {
    let peers = (1..=peers).map(PeerId).collect();
    let place = PeerId(0);
    let settings = ProtocolSettings {
        delivery_bound: DELIVERY_BOUND,
        ahead: AHEAD,
        place,
        peers,
        min_live: 1,
        refusal_is_proof: true,
        depth_max: 100,
        piece_bytes: 1000,
        restarts_free: 3,
    };
    let now = Timestamp(now_ms * MILLISECOND);
    let recent = BTreeSet::new();
    let mut replica =
        Replica::new(settings, Start { epoch: 1, restarts, applied, recent, closed: Timestamp::ZERO, now });
    // The first wake; without peers it serves from here on.
    assert_eq!(wake(&mut replica, now), []);
    replica
}

/// A replica that starts at this time, in milliseconds, and serves with both peers, linked, at once.
fn serving(now_ms: u64) -> Replica {
    let mut replica = start(now_ms, Uid::MIN, 2);
    let now = Timestamp(now_ms * MILLISECOND);
    let closed = now.before(AHEAD);
    let peers = [PeerId(1), PeerId(2)];
    for peer in peers {
        replica.step(Input::PeerConnected { peer }, &mut Vec::new());
        let said = |message| Input::Peer { time: now, peer, message };
        let pong = PeerMessage::Pong { sent: now, clock: now, is_log_time: false };
        let incarnation = said(PeerMessage::Incarnation { epoch: 1, has_joined: false });
        for input in [incarnation, nothing_more(now, peer), said(PeerMessage::Join { closed }), said(pong)] {
            replica.step(input, &mut Vec::new());
        }
        wake(&mut replica, now);
    }
    // A welcome counts once it joins, which takes both peers.
    for peer in peers {
        let message = PeerMessage::Welcome { to: 1, applied: closed, grace_ns: u64::MAX };
        replica.step(Input::Peer { time: now, peer, message }, &mut Vec::new());
    }
    wake(&mut replica, now);
    assert_eq!(replica.phase(), Phase::Serving);
    replica
}

/// A wake before which everything has been put in, and what the replica wants done then.
fn wake(replica: &mut Replica, time: Timestamp) -> Vec<Output> {
    let mut outputs = Vec::new();
    run_wake(replica, time, time, &mut outputs);
    outputs
}

/// A wake that applies all that is stable.
fn run_wake(replica: &mut Replica, time: Timestamp, drained: Timestamp, outputs: &mut Vec<Output>) {
    for input in [Input::Woken { time }, Input::Drained { time: drained }, Input::Handled { time }] {
        replica.step(input, outputs);
    }
    while replica.has_stable() {
        replica.step(Input::ApplyNext, outputs);
    }
    replica.step(Input::Applied, outputs);
}

/// The peer of this name.
fn peer(name: Option<&str>) -> Result<PeerId> {
    match name {
        Some("b") => Ok(PeerId(1)),
        Some("c") => Ok(PeerId(2)),
        _ => Err("which peer is missing".into()),
    }
}

/// The inverse of [`peer`].
fn peer_name(PeerId(peer): PeerId) -> &'static str {
    ["a", "b", "c"][usize::from(peer)]
}

/// The session of this name, or as many bytes of it as there are.
fn client(name: &str) -> ClientId {
    ClientId::derive(&SecretKey::from_seed(&[0; 32]), &AccountName::parse("alice").expect("a name"), name)
}

/// The request of this name: the first of its session.
fn request(name: &str) -> Body {
    let to = Conversation::with(&AccountName::parse("bob").expect("a name"));
    let command = Command::Send { to, text: MessageText::parse(name).expect("a text") };
    Body::Request(Request { client: client(name), sequence: 1, actor: None, command })
}

/// The query of this name.
fn query(name: &str) -> Body {
    let id = u64::from_be_bytes(client(name).0[..8].try_into().expect("eight of sixteen bytes"));
    Body::Query(QueryRequest { id, actor: None, query: Query::List { pattern: Pattern::all(), after: None, limit: 1 } })
}

/// A comparison by which a peer's log has nothing that ours lacks.
fn nothing_more(time: Timestamp, peer: PeerId) -> Input {
    Input::LogCompared { time, peer, after: None, depth: 0, end: None }
}

/// A time in milliseconds with up to six decimals.
fn time(text: &str) -> Result<Timestamp> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    Ok(Timestamp(whole.parse::<u64>()? * MILLISECOND + format!("{decimals:0<6}").parse::<u64>()?))
}

/// The inverse of [`time`].
fn show(time: Timestamp) -> String {
    let (whole, decimals) = (time.0 / MILLISECOND, time.0 % MILLISECOND);
    if decimals == 0 { whole.to_string() } else { format!("{whole}.{decimals:06}") }
}

golden_scripts!(
    "src/replica/scripts",
    Script::new,
    a_body_is_waited_for_no_longer_than_another_bound,
    a_body_on_its_way_is_waited_for,
    a_certain_death_is_flushed,
    a_duplicate_is_applied_once_and_answered_to_all,
    a_flush_that_takes_too_long_ends_with_a_barrier,
    a_full_disk_refuses_requests_and_answers_queries,
    a_join_waits_for_every_clock,
    a_late_request_is_inserted,
    a_log_that_ends_ahead_of_the_clock,
    a_log_that_ends_in_the_future_is_mended_first,
    a_missing_uid_holds_up_later_requests,
    a_pause_begins_a_new_epoch,
    a_peer_that_catches_up_is_not_consulted,
    a_peer_that_comes_back_has_been_heard,
    a_refusal_proves_nothing_while_connected,
    a_repeated_request_is_refused_as_late,
    a_replica_joins_only_with_a_good_clock,
    a_replica_whose_clock_is_outvoted_stands_down,
    a_request_that_is_not_held_is_given_up,
    a_request_that_several_list_and_none_sends,
    a_restart_accepts_nothing_below_what_it_applied,
    a_start_catches_up_joins_and_serves,
    a_stop_applies_what_was_accepted,
    a_stop_hands_over_and_leaves,
    a_stop_with_nothing_pending_is_at_once,
    a_transfer_resumes_where_the_last_one_stopped,
    accounts_and_not_strangers_set_the_grace,
    after_silence_the_real_time_test_decides_up_to_the_barrier,
    an_incarnation_that_was_fenced_comes_back,
    applied_in_the_order_of_uids,
    at_most_sixteen_connections_wait_for_one_request,
    diverged_replicas_catch_up_one_at_a_time,
    every_linked_peer_must_close_and_hold,
    late_and_ahead_are_refused,
    messages_of_a_pause_are_read_before_time_passes,
    no_timestamp_of_a_wrong_clock_is_believed,
    of_two_clocks_that_differ_one_goes_on,
    only_stable_requests_are_applied,
    queries_are_ordered_like_requests,
    requests_that_come_too_fast_are_told_how_long_to_wait,
    the_clock_reading_never_moves_back,
    the_real_time_test_waits_for_the_delivery_bound,
    uids_of_a_dead_incarnation_are_dropped,
    unexpected_log_entries_are_ignored,
    who_is_accused_is_asked_for_a_proof_of_our_own,
    who_joins_takes_in_nothing_before_all_consult_it,
);

#[test]
fn overload_is_refused_until_there_is_room() {
    let mut replica = start(10_000, Uid::MIN, 0);
    let mut outputs = Vec::new();
    wake(&mut replica, Timestamp(10_000 * MILLISECOND));
    let mut arrive = |replica: &mut Replica, number: u64, connection: u64| {
        let to = Conversation::with(&AccountName::parse("bob").expect("a name"));
        let command = Command::Send { to, text: MessageText::parse("x".repeat(4096)).expect("a text") };
        let body = Body::Request(Request { client: client("r"), sequence: number, actor: None, command });
        let timestamp = Timestamp(10_000 * MILLISECOND + number);
        let submission =
            Submission { time: timestamp, from: ConnectionId(connection), timestamp, body, too_fast: None };
        replica.step(Input::Request { submission, sender: Sender::Stranger }, &mut outputs);
        match &std::mem::take(&mut outputs)[..] {
            [] => false,
            [Output::Effect(Effect::Refuse { reason: Refusal::Overloaded, .. })] => true,
            other => panic!("{other:?}"),
        }
    };
    // One connection has a limit of its own.
    let refused = (1..100_000).find(|number| arrive(&mut replica, *number, 0)).expect("it has a limit");
    assert_eq!(refused, 2049);
    // Many together fill what there is. Each has less, and one that comes late has something.
    let refused = (refused..100_000).find(|number| arrive(&mut replica, *number, number % 10));
    let refused = refused.expect("64 MiB are less than 100,000 times 4 KiB");
    assert!(!arrive(&mut replica, refused, 11));
    let refused =
        (refused + 1..100_000).find(|number| arrive(&mut replica, *number, *number)).expect("64 MiB are full");
    assert!((12_000..16_384).contains(&refused), "{refused}");

    let applied = wake(&mut replica, Timestamp(11_001 * MILLISECOND));
    assert!(applied.len() as u64 > refused - 10);
    assert_eq!(replica.pending(), 0);
    replica.check_invariants_fully().expect("nothing is counted that is not pending");
}

/// A replica that serves, with a pending request `r`.
fn serving_with_pending() -> (Replica, Uid) {
    let mut replica = serving(10_000);
    let (timestamp, body) = (Timestamp(10_010 * MILLISECOND), request("r"));
    let uid = body.uid(timestamp);
    let submission = Submission { time: timestamp, from: ConnectionId(1), timestamp, body, too_fast: None };
    replica.step(Input::Request { submission, sender: Sender::Stranger }, &mut Vec::new());
    assert!(replica.pending.get(uid).is_some());
    (replica, uid)
}

/// Damages a replica; the uid is of a request that it holds.
type Break = fn(&mut Replica, Uid);

#[test]
fn each_broken_rule_is_noticed() {
    let breaks: [(&str, Break); 20] = [
        ("the epoch only grows", |replica, _| replica.epoch = 0),
        ("the closed timestamp never moves back", |replica, _| {
            replica.closing = Closing::new(Timestamp::ZERO, DELIVERY_BOUND);
        }),
        ("the barrier never moves back", |replica, _| replica.reached.barrier = Timestamp::MAX),
        ("the drained reading never moves back", |replica, _| replica.drained = Timestamp::ZERO),
        ("the clock reading never moves back", |replica, _| replica.now = Timestamp::ZERO),
        ("the horizon never moves back", |replica, _| {
            replica.recent = RecentlyApplied::new(Timestamp::ZERO, BTreeSet::new());
        }),
        ("an announced closed timestamp is closed", |replica, _| {
            replica.announcer.announce(replica.now, Timestamp::MAX);
        }),
        ("the applied requests are closed", |replica, _| replica.applied = Uid::new(Timestamp::MAX, b"")),
        ("pending requests come after the applied ones", |replica, uid| {
            replica.closing.raise(uid.timestamp);
            replica.applied = uid;
        }),
        ("nothing is missing that is pending or applied", |replica, uid| {
            replica.missing.list(uid, PeerId(1), replica.now, replica.now);
        }),
        ("uids remembered as applied are applied", |replica, uid| replica.recent.insert(uid)),
        ("applied uids are remembered", |replica, _| {
            replica.applied = Uid::new(replica.closing.closed(), b"");
        }),
        ("missing requests are fetched from the peers that are connected", |replica, _| {
            replica.missing.on_disconnected(PeerId(1), replica.now);
        }),
        ("a peer is consulted or catches up only under", |replica, _| {
            replica.peers.get_mut(PeerId(1)).expect("it has two peers").epoch = None;
        }),
        ("nothing is pending while we catch up", |replica, _| replica.phase = Phase::CatchingUp),
        ("nothing is missing while we catch up", |replica, uid| {
            replica.refuse_pending(Refusal::NotServing, &mut Vec::new());
            replica.phase = Phase::CatchingUp;
            replica.missing.list(uid, PeerId(1), replica.now, replica.now);
        }),
        ("a transfer is from a peer that is connected", |replica, _| {
            replica.peers.get_mut(PeerId(1)).expect("it has two peers").is_connected = false;
            replica.missing.on_disconnected(PeerId(1), replica.now);
            replica.catch_up.begin_log(PeerId(1), Uid::MIN, 0);
        }),
        ("a snapshot is taken only while we catch up", |replica, _| replica.catch_up.begin_snapshot(PeerId(1))),
        ("no connection waits among the refused", |replica, uid| replica.refused.insert(uid, ConnectionId(1))),
        ("announced requests are held", |replica, _| {
            replica.announcer.add(Uid::new(Timestamp(10_020 * MILLISECOND), b"nobody's"));
        }),
    ];
    for (rule, break_it) in breaks {
        let (mut replica, uid) = serving_with_pending();
        assert_eq!(replica.check_invariants_fully(), Ok(()), "before breaking: {rule}");
        break_it(&mut replica, uid);
        let found = replica.check_invariants_fully();
        assert!(found.is_err_and(|found| found.starts_with(rule)), "{found:?} in place of: {rule}");
    }
}

#[test]
#[should_panic(expected = "the barrier never moves back")]
fn a_step_that_finds_a_broken_rule_panics() {
    let mut replica = serving(10_000);
    replica.reached.barrier = Timestamp::MAX;
    replica.step(Input::Room { has_room: true }, &mut Vec::new());
}

/// Two replicas whose clocks both were wrong and are right again: each could take the time of the other, which takes its own, over
/// and over. So the time that a peer shows does not count while its log ends ahead of that time, as ours does.
#[test]
fn a_peer_contradicts_our_clock_only_if_its_log_does_not_end_ahead_of_its_own() {
    let at = |milliseconds: u64| Timestamp(milliseconds * MILLISECOND);
    let hour = at(3_600_000).0.cast_signed();
    // Our clock is an hour ahead of the machine's, which the clock of `b` agrees with.
    let is_contradicted = |our_end: u64, its_end: Option<u64>| {
        let mut replica = start(3_610_000, Uid::new(at(our_end), b""), 2);
        let (time, peer) = (at(3_610_010), PeerId(1));
        let catching_up = Input::Peer { time, peer, message: PeerMessage::Incarnation { epoch: 1, has_joined: false } };
        let pong = PeerMessage::Pong { sent: time, clock: at(10_010), is_log_time: false };
        let pong = Input::Peer { time, peer, message: pong };
        let compared = Input::LogCompared { time, peer, after: None, depth: 0, end: its_end.map(at) };
        for input in [Input::PeerConnected { peer }, catching_up, pong, compared] {
            replica.step(input, &mut Vec::new());
        }
        replica.step(Input::WallClock { unfollowed_ns: Some(-hour) }, &mut Vec::new());
        replica.has_to_start_again()
    };
    assert!(is_contradicted(3_609_000, Some(9_990)), "its log will replace ours");
    assert!(!is_contradicted(3_609_000, Some(3_609_000)), "it is about to raise its clock");
    assert!(!is_contradicted(3_609_000, None), "nothing is known of its log");
    assert!(is_contradicted(9_990, None), "our log does not end ahead of the machine's clock");
}

/// After how many milliseconds a replica that has begun anew so often joins, when so many of its two peers have joined.
fn join_wait(restarts: u32, joined: u8, min_live: usize) -> u64 {
    let mut replica = start_again(10_000, Uid::MIN, 2, restarts);
    replica.settings.min_live = min_live;
    for after in (0..100_000).step_by(100) {
        let time = Timestamp((10_000 + after) * MILLISECOND);
        for peer in [PeerId(1), PeerId(2)] {
            if after == 0 {
                replica.step(Input::PeerConnected { peer }, &mut Vec::new());
            }
            let join = (peer.0 <= joined).then_some(PeerMessage::Join { closed: time.before(AHEAD) });
            for message in std::iter::once(PeerMessage::Incarnation { epoch: 1, has_joined: false }).chain(join) {
                replica.step(Input::Peer { time, peer, message }, &mut Vec::new());
            }
            let pong = PeerMessage::Pong { sent: time, clock: time, is_log_time: false };
            replica.step(Input::Peer { time, peer, message: pong }, &mut Vec::new());
            replica.step(nothing_more(time, peer), &mut Vec::new());
        }
        wake(&mut replica, time);
        if replica.phase() != Phase::CatchingUp {
            return after;
        }
        assert!(replica.join_wait().is_some(), "it says that it waits");
    }
    panic!("it does not join");
}

#[test]
fn after_many_restarts_it_waits_before_it_joins_unless_it_is_needed() {
    assert_eq!([0, 1, 3].map(|restarts| join_wait(restarts, 2, 1)), [0; 3], "a few restarts are free");
    assert_eq!([4, 5, 6, 9, 30].map(|restarts| join_wait(restarts, 2, 1)), [2000, 4000, 8000, 64_000, 64_000]);
    assert_eq!(join_wait(9, 0, 1), 0, "nobody else serves");
    assert_eq!(join_wait(9, 1, 2), 0, "too few serve for min_live");
    assert_eq!(join_wait(4, 1, 1), 2000);
}

#[test]
fn restarts_are_forgotten_when_a_replica_has_served_for_long() {
    let mut replica = start_again(10_000, Uid::MIN, 0, 7);
    let (mut time, mut outputs) = (Timestamp(10_000 * MILLISECOND), Vec::new());
    for _ in 0..299 {
        time = time.after(DELIVERY_BOUND);
        outputs.extend(wake(&mut replica, time));
    }
    assert_eq!((replica.restarts(), &outputs[..]), (7, &[][..]));
    let outputs = wake(&mut replica, time.after(DELIVERY_BOUND));
    assert_eq!((replica.restarts(), &outputs[..]), (0, &[Output::Effect(Effect::Stable)][..]));
}

#[test]
fn a_clock_is_contradicted_if_only_the_wall_clock_agrees_with_a_peers() {
    const HOUR_MS: u64 = 3_600_000;
    let hour_ns = (HOUR_MS * MILLISECOND).cast_signed();
    let now = Timestamp((10_000 + HOUR_MS) * MILLISECOND);
    let mut replica = start(10_000 + HOUR_MS, Uid::MIN, 2);
    let pong = |replica: &mut Replica, peer, clock| {
        replica.step(Input::PeerConnected { peer }, &mut Vec::new());
        let pong = PeerMessage::Pong { sent: now, clock, is_log_time: false };
        for message in [PeerMessage::Incarnation { epoch: 1, has_joined: false }, pong] {
            replica.step(Input::Peer { time: now, peer, message }, &mut Vec::new());
        }
    };
    let contradicts = |replica: &mut Replica, ahead_ns| {
        replica.step(Input::WallClock { unfollowed_ns: Some(ahead_ns) }, &mut Vec::new());
        replica.has_to_start_again()
    };
    assert!(!contradicts(&mut replica, -hour_ns), "no peer's clock is known");
    pong(&mut replica, PeerId(1), Timestamp(10_000 * MILLISECOND));
    assert!(contradicts(&mut replica, -hour_ns), "a peer has the time of the wall clock");
    assert!(!contradicts(&mut replica, -hour_ns / 2), "the wall clock agrees with nobody either");
    pong(&mut replica, PeerId(2), now);
    assert!(!contradicts(&mut replica, -hour_ns), "a peer has our time");
}
