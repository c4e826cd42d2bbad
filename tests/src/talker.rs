//! A client that keeps sending while replicas fail. It uses the links and the session of the command line, sends numbered
//! messages at a given pace, and records the answer to each.

use crate::network::enter;
use crate::raw::{RawClient, call_everywhere};
use crate::session::Person;
use mio::{Events, Poll, Token, Waker};
use stablechat_client::clock::{LocalClock, Offsets};
use stablechat_client::greeting::Credentials;
use stablechat_client::link::LinkEvent;
use stablechat_client::links::Links;
use stablechat_client::session::{AnswerKind, Outgoing, Session};
use stablechat_protocol::answer::{Answer, Stability};
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::command::Command;
use stablechat_protocol::login::SecretKey;
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::name::AccountName;
use stablechat_protocol::request::RequestId;
use stablechat_protocol::room::{RoomAction, RoomName};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use stablechat_protocol::version::Versions;
use stablechat_transport::TlsDialer;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The token of the waker. The tokens of links are small numbers.
const WAKER: Token = Token(usize::MAX);
/// How long the last requests may take to be answered, beside four delivery bounds.
const PATIENCE: Duration = Duration::from_secs(60);

/// The messages of a talker, and their pace.
pub struct Plan {
    /// The cluster, as far as the talker can reach it.
    pub cluster: Cluster,
    /// The account that sends.
    pub account: AccountName,
    pub secret: SecretKey,
    /// The versions of the protocol that it speaks.
    pub versions: Versions,
    /// The network namespace of its sockets, if not that of this process.
    pub namespace: Option<PathBuf>,
    /// How many requests it keeps in flight.
    pub window: usize,
    /// The time from one request to the next. One that cannot be issued in its turn, since others are in flight, is issued in the
    /// next turn.
    pub pace: Duration,
    /// The number of requests after which it ends by itself.
    pub messages_max: u64,
    /// The request of this number, from 1.
    pub command: fn(&AccountName, u64) -> Command,
}

/// The room to which [`to_bob_and_room`] sends.
const ROOM: &str = "#talkers";

/// Creates bob's account at all replicas, and his room.
pub fn create_bob(cluster: &crate::cluster::Cluster, names: &[&str], bob: &Person) {
    create_and_act(cluster, names, bob, RoomAction::Create { is_private: false });
}

/// Creates a talker's account at all replicas, and makes it a member of bob's room.
pub fn create_talker(cluster: &crate::cluster::Cluster, names: &[&str], person: &Person) {
    create_and_act(cluster, names, person, RoomAction::Join);
}

fn create_and_act(cluster: &crate::cluster::Cluster, names: &[&str], person: &Person, action: RoomAction) {
    let greet = || names.iter().map(|name| cluster.greet(name)).collect::<Vec<RawClient>>();
    call_everywhere(&mut greet(), &person.create());
    // Over connections of their own: on the others, answers to earlier attempts may follow.
    let mut clients = greet();
    clients.iter_mut().for_each(|client| client.login(person, false));
    let room = RoomName::parse(ROOM).expect("a name by the rules");
    call_everywhere(&mut clients, &Command::Room { room, action });
}

/// Sends "account number" to bob and, every other time, to the room in which he is: either way it reaches him.
pub fn to_bob_and_room(account: &AccountName, number: u64) -> Command {
    let to = if number.is_multiple_of(2) { ROOM } else { "bob" };
    crate::session::send(to, format!("{account} {number}"))
}

/// The next turn after `now` of a client that calls at a steady pace, at `first` for the first time. The turns stay where they are,
/// however long a call takes: otherwise an outage would make all clients call at the same instants for ever after, in bursts.
pub fn next_turn(first: Instant, every: Duration, now: Instant) -> Instant {
    if every.is_zero() {
        return now;
    }
    let into_turn = now.saturating_duration_since(first).as_nanos() % every.as_nanos();
    now + every - Duration::from_nanos(u64::try_from(into_turn).expect("a turn is shorter than centuries"))
}

/// A talker in a thread of its own.
pub struct Talker {
    thread: JoinHandle<io::Result<Transcript>>,
    shared: Arc<Shared>,
}

/// What a talker and its owner share.
#[derive(Default)]
struct Shared {
    /// The owner wants no more requests issued.
    is_enough: AtomicBool,
    /// The number of requests that were issued.
    issued: AtomicU64,
    /// The number of answered requests.
    answered: AtomicU64,
}

/// The outcome of a talker's requests.
#[derive(Clone, Debug)]
pub struct Transcript {
    /// The account that sent them.
    pub account: AccountName,
    /// The session of all its requests.
    pub client: ClientId,
    /// Every request, in the order in which they were answered.
    pub samples: Vec<Sample>,
    /// Faults that no client should ever see: rejections, answers that differ between replicas, and answers that never came.
    pub faults: Vec<String>,
    /// The number of repeated attempts.
    pub repetitions: u64,
    /// The number of attempts that a replica refused, by reason.
    pub refusals: BTreeMap<String, u64>,
}

/// A request and its first answer.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub sequence: u64,
    /// The uid of the attempt that was answered.
    pub uid: Uid,
    /// The time of the first attempt.
    pub issued: Instant,
    /// The time from the first attempt to the answer.
    pub latency: Duration,
    /// The test by which the request was stable at the replica that answered.
    pub stability: Stability,
    /// The replica that answered, by its place in the cluster file.
    pub replica: usize,
}

impl Plan {
    /// Sends "account number" to "bob", one at a time.
    pub fn new(cluster: &crate::cluster::Cluster, person: &Person) -> Plan {
        Plan {
            cluster: cluster.parsed(),
            account: person.account.clone(),
            secret: person.secret.clone(),
            versions: Versions::OURS,
            namespace: None,
            window: 1,
            pace: Duration::ZERO,
            messages_max: u64::MAX,
            command: |account, number| crate::session::send("bob", format!("{account} {number}")),
        }
    }

    /// Starts the talker's thread.
    pub fn start(self) -> Talker {
        let shared = Arc::new(Shared::default());
        let for_thread = shared.clone();
        let talk = move || {
            self.namespace.iter().for_each(enter);
            Talking::new(self, for_thread)?.run()
        };
        Talker { thread: std::thread::spawn(talk), shared }
    }
}

impl Talker {
    /// The number of requests that are issued so far.
    pub fn issued(&self) -> u64 {
        self.shared.issued.load(Ordering::Relaxed)
    }

    /// The number of requests that are answered so far.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Whether the talker has ended, after its last request or because of a fault.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Stops issuing requests, waits until all are answered, and returns the outcome.
    pub fn finish(self) -> Transcript {
        self.shared.is_enough.store(true, Ordering::Relaxed);
        self.join()
    }

    /// Waits until all the requests of the plan are answered, and returns the outcome.
    pub fn join(self) -> Transcript {
        self.thread.join().expect("the talker does not panic").expect("sockets can be polled")
    }
}

/// The state of a talker's thread.
struct Talking {
    plan: Plan,
    shared: Arc<Shared>,
    poll: Poll,
    links: Links,
    clock: LocalClock,
    offsets: Offsets,
    session: Session,
    /// The unanswered requests, each with the time of its first attempt.
    issued: BTreeMap<u64, Instant>,
    started: Instant,
    /// The time at which the next request may be issued.
    next_at: Instant,
    /// The time of the last answer.
    progress: Instant,
    transcript: Transcript,
}

impl Talking {
    fn new(plan: Plan, shared: Arc<Shared>) -> io::Result<Talking> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let tls = TlsDialer::for_client(&plan.cluster.ca).expect("a cluster with an authority");
        let mut links = Links::new(&plan.cluster, tls, poll.registry().try_clone()?, waker).speaking(plan.versions);
        let identity =
            Credentials { account: plan.account.clone(), secret: plan.secret.clone(), is_from_password: false };
        let actor = identity.actor();
        links.log_in(Some(Rc::new(identity)), false);
        let client = ClientId(std::array::from_fn(|_| fastrand::u8(..)));
        Ok(Talking {
            session: Session::new(client, Some(actor), plan.cluster.delivery_bound),
            offsets: Offsets::new(plan.cluster.replicas.len()),
            transcript: Transcript {
                account: plan.account.clone(),
                client,
                samples: Vec::new(),
                faults: Vec::new(),
                repetitions: 0,
                refusals: BTreeMap::new(),
            },
            plan,
            shared,
            poll,
            links,
            clock: LocalClock::start(),
            issued: BTreeMap::new(),
            started: Instant::now(),
            next_at: Instant::now(),
            progress: Instant::now(),
        })
    }

    fn run(mut self) -> io::Result<Transcript> {
        let mut events = Events::with_capacity(64);
        let mut link_events = Vec::new();
        loop {
            let now = self.clock.now();
            self.links.on_time(now, &mut link_events);
            for event in std::mem::take(&mut link_events) {
                self.on_event(now, event);
            }
            let due = self.session.due(now);
            self.transcript.repetitions += due.len() as u64;
            self.send(None, due);
            self.issue(now);
            self.links.flush(now, &mut link_events);
            if self.is_over() {
                return Ok(self.transcript);
            }
            let timeout = if link_events.is_empty() { self.timeout() } else { Duration::ZERO };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => result?,
            }
            let now = self.clock.now();
            events.iter().for_each(|event| self.links.on_ready(now, event, &mut link_events));
        }
    }

    /// Whether everything is issued and answered, or an answer is overdue for so long that it will never come.
    fn is_over(&mut self) -> bool {
        let said_all = self.session.next_sequence() > self.plan.messages_max;
        let is_enough = said_all || self.shared.is_enough.load(Ordering::Relaxed);
        if self.session.is_idle() {
            self.progress = Instant::now();
            return is_enough;
        }
        let patience = PATIENCE + self.plan.cluster.delivery_bound * 4;
        if self.progress.elapsed() > patience {
            let unanswered: Vec<&u64> = self.issued.keys().take(5).collect();
            self.transcript.faults.push(format!("no answer to {unanswered:?} within {patience:?}"));
            return true;
        }
        false
    }

    /// The time to wait for events. It is short, since the owner may end the talker without an event.
    fn timeout(&self) -> Duration {
        let now = self.clock.now();
        let deadlines = self.links.deadline().into_iter().chain(self.session.deadline());
        let deadline = deadlines.min().map_or(Duration::MAX, |deadline| deadline.since(now));
        let next = match self.issued.len() < self.plan.window {
            true => self.next_at.saturating_duration_since(Instant::now()).max(Duration::from_micros(100)),
            false => Duration::MAX,
        };
        deadline.min(next).min(Duration::from_millis(20))
    }

    /// Issues the requests that are due by the plan.
    fn issue(&mut self, now: Timestamp) {
        while self.issued.len() < self.plan.window
            && self.session.can_issue()
            && self.session.next_sequence() <= self.plan.messages_max
            && self.next_at <= Instant::now()
            && self.links.are_tried()
            && !self.shared.is_enough.load(Ordering::Relaxed)
        {
            let number = self.session.next_sequence();
            let outgoing = self.session.issue(now, (self.plan.command)(&self.plan.account, number));
            if self.issued.is_empty() {
                self.progress = Instant::now();
            }
            self.issued.insert(number, Instant::now());
            self.shared.issued.fetch_add(1, Ordering::Relaxed);
            self.next_at = next_turn(self.started, self.plan.pace, Instant::now());
            self.send(None, vec![outgoing]);
        }
    }

    /// Sends attempts on one link, or on all.
    fn send(&mut self, link: Option<usize>, outgoing: Vec<Outgoing>) {
        for Outgoing { sequence, timestamp, command } in outgoing {
            let client = self.session.client();
            self.links.send(link, &ToReplica::Request { client, sequence, timestamp, command });
        }
    }

    fn on_event(&mut self, now: Timestamp, event: LinkEvent) {
        match event {
            LinkEvent::Ready { link } => {
                let outgoing = self.session.on_link_ready(link);
                self.send(Some(link), outgoing);
            }
            LinkEvent::Lost { link, .. } => self.session.on_link_lost(now, link),
            LinkEvent::Unreachable { .. } => {}
            LinkEvent::Message { link, message } => self.on_message(now, link, message),
            LinkEvent::Sample { link, exchange } => {
                self.offsets.observe(link, exchange);
                self.session.set_clock_offset(self.offsets.offset());
            }
            LinkEvent::Misconfigured { fault, .. } => self.transcript.faults.push(fault),
        }
    }

    fn on_message(&mut self, now: Timestamp, link: usize, message: ToClient) {
        match message {
            ToClient::Answer { client, sequence, uid, answer, metadata } if client == self.session.client() => {
                match self.session.on_answer(now, link, sequence, uid, &answer) {
                    AnswerKind::Answered => {
                        let issued = self.issued.remove(&sequence).expect("issued and not answered before");
                        if answer != Answer::Done {
                            self.transcript.faults.push(format!("the answer to {sequence} is {answer:?}"));
                        }
                        let (latency, stability) = (issued.elapsed(), metadata.stability);
                        self.transcript.samples.push(Sample {
                            sequence,
                            uid,
                            issued,
                            latency,
                            stability,
                            replica: link,
                        });
                        self.progress = Instant::now();
                        self.shared.answered.fetch_add(1, Ordering::Relaxed);
                    }
                    AnswerKind::Differs { link: other, answer: first } => self.transcript.faults.push(format!(
                        "replica {link} answers {answer:?} to {sequence}, but replica {other} {first:?}"
                    )),
                    AnswerKind::Foreign => {
                        self.transcript
                            .faults
                            .push(format!("replica {link} answers another command than {sequence}: {uid}"));
                    }
                    AnswerKind::Repeated | AnswerKind::Uninformative => {}
                }
            }
            ToClient::Refused { request: RequestId::Command { client, sequence }, timestamp, reason, .. }
                if client == self.session.client() =>
            {
                *self.transcript.refusals.entry(reason.to_string()).or_default() += 1;
                self.session.on_refused(now, link, sequence, timestamp, reason.wait());
            }
            ToClient::LoginRefused { account, .. } => self.transcript.faults.push(format!("{account} may not log in")),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_stay_where_they_are() {
        let (first, every) = (Instant::now(), Duration::from_millis(32));
        let next_at = |now_ms| next_turn(first, every, first + Duration::from_millis(now_ms)) - first;
        assert_eq!([0, 1, 31, 32, 100].map(next_at), [32, 32, 32, 64, 128].map(Duration::from_millis));
        assert_eq!(next_turn(first, Duration::ZERO, first), first);
    }
}
