//! A fake replica: it greets, checks logins, applies requests in the order of arrival, and misbehaves when a test asks for it.
//!
//! [`Chat`] has the rules that a client can see (sessions, ownership, pages). Left out: the disk, the order of timestamps, and
//! other replicas.

use super::chat::Chat;
use super::probe::{Peer, ping_peers};
use super::wire::Wire;
use stablechat_authority::Authority;
use stablechat_protocol::answer::{Answer, AnswerMetadata, QueryAnswer, Refusal, Rejection, Stability};
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::command::{Command, Query};
use stablechat_protocol::conversation::Message;
use stablechat_protocol::digest::{BoundaryDigests, Digest, LogMark};
use stablechat_protocol::frame::{Decoded, FrameBuffer, encode};
use stablechat_protocol::login::{Challenge, ChannelBinding, LoginProof, LoginRefusal, LoginStatement, PublicKey};
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::name::{AccountName, ClusterId, ClusterName, ReplicaName};
use stablechat_protocol::request::{Actor, Request, RequestId};
use stablechat_protocol::session::ClientId;
use stablechat_protocol::status::{Counters, ReportedPhase, StateContents, StatusReport};
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use stablechat_transport::{Identity, TlsAcceptor};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The id of all clusters of fake replicas.
pub const CLUSTER_ID: &str = "1";

/// How a replica misbehaves. By default it does not.
#[derive(Clone, Debug, Default)]
pub struct Manners {
    /// It reads and says nothing.
    pub hangs: bool,
    /// It takes requests and never answers them.
    pub is_mute: bool,
    /// Before each answer to a command it sends this one, to another command of the same session and number.
    pub answers_another: Option<Answer>,
    /// It refuses this many more commands.
    pub refuses: u64,
    /// It refuses this many more queries.
    pub refuses_queries: u64,
    /// It dies when it has answered this many more commands.
    pub dies_after: Option<u64>,
    /// Its clock is this far ahead, in nanoseconds.
    pub clock_offset: i64,
    /// It closes every connection for this reason.
    pub closes: Option<CloseReason>,
    /// It rejects every send with this.
    pub rejects_sends: Option<Rejection>,
    /// The most entries of a page; without it, the client's limit.
    pub page: Option<usize>,
    /// It reports the phase `Stopping`.
    pub is_stopping: bool,
    /// Every byte of the state digest that it reports.
    pub state: u8,
    /// The peers that it claims to have pinged, with their answers.
    pub peers: Vec<Peer>,
}

#[derive(Clone)]
pub struct Replica {
    pub name: ReplicaName,
    pub address: SocketAddr,
    cluster: ClusterName,
    tls: Arc<Mutex<TlsAcceptor>>,
    shared: Arc<(Mutex<State>, Condvar)>,
}

/// The next port to be tried.
static NEXT_PORT: AtomicU16 = AtomicU16::new(2000);

/// Listens where no other test listens, and goes on to do so for as long as this process lives: a replica that was killed must not
/// find another one at its port. The address is made from the number of the process (all of 127.0.0.0/8 is loopback on Linux),
/// ports are counted up, and connections come from 127.0.0.1, so none of them takes such a port.
fn bind() -> TcpListener {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let host = Ipv4Addr::new(127, 64 + high % 64, middle, low);
    loop {
        let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        assert!(port < 32_000, "no port is free");
        if let Ok(listener) = TcpListener::bind((host, port)) {
            return listener;
        }
    }
}

#[derive(Default)]
pub struct State {
    pub manners: Manners,
    /// The texts of applied sends, in order.
    pub sent: Vec<String>,
    /// The timestamps of all requests and queries, in the order of arrival.
    pub timestamps: Vec<Timestamp>,
    /// How often it was asked for an inbox, page by page.
    pub inboxes: u64,
    /// How often it was asked to ping its peers.
    pub rounds: u64,
    chat: Chat,
    connections: Vec<Connection>,
    is_alive: bool,
}

struct Connection {
    wire: Wire,
    receives_for: Option<AccountName>,
}

impl Replica {
    /// A replica that listens on a port of its own.
    pub fn start(cluster: &str, name: &str, authority: &Authority) -> Replica {
        let listener = bind();
        let name = ReplicaName::parse(name).expect("a name");
        let identity = authority.issue(&name).expect("random numbers");
        let replica = Replica {
            name,
            address: listener.local_addr().expect("an address"),
            cluster: ClusterName::parse(cluster).expect("a name"),
            tls: Arc::new(Mutex::new(acceptor(&identity, authority))),
            shared: Arc::default(),
        };
        replica.serve(listener);
        replica
    }

    /// Shows this certificate from now on.
    pub fn show(&self, identity: &str, authority: &Authority) {
        *self.tls.lock().expect("no panic") = acceptor(identity, authority);
    }

    /// Makes it misbehave, or stop doing so.
    pub fn set(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.state().manners);
        self.shared.1.notify_all();
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().expect("no thread of a replica has panicked")
    }

    /// Breaks all connections and takes no new ones. Its state stays.
    pub fn kill(&self) {
        let mut state = self.state();
        state.is_alive = false;
        for connection in state.connections.drain(..) {
            drop(connection.wire.cut());
        }
        drop(state);
        // The first ends the thread that waits for connections. Its socket takes others until it is closed.
        let limit = std::time::Instant::now() + super::run::LIMIT;
        while TcpStream::connect(self.address).is_ok() {
            assert!(std::time::Instant::now() < limit, "the socket is not closed");
            thread::yield_now();
        }
    }

    /// Listens again, after a kill.
    pub fn restart(&self) {
        let limit = std::time::Instant::now() + super::run::LIMIT;
        let listener = loop {
            match TcpListener::bind(self.address) {
                Ok(listener) => break listener,
                Err(error) => assert!(std::time::Instant::now() < limit, "{error}"),
            }
            thread::yield_now();
        };
        self.serve(listener);
    }

    /// Pushes every message once more, as if it were new.
    pub fn push_all_again(&self) {
        let mut state = self.state();
        for message in state.chat.messages().to_vec() {
            state.push(&message);
        }
    }

    /// Reports to every connection that the answers to all requests have changed to this one.
    pub fn change_answers(&self, answer: &Answer) {
        let mut state = self.state();
        let mut bytes = Vec::new();
        for (client, sequence, uid) in state.chat.requests() {
            let answer = answer.clone();
            encode(&ToClient::Changed { client, sequence, uid, answer }, &mut bytes).expect("short");
        }
        for connection in &mut state.connections {
            // A client may be gone.
            drop(connection.wire.write(&bytes));
        }
    }

    fn serve(&self, listener: TcpListener) {
        self.state().is_alive = true;
        let replica = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                let mut state = replica.state();
                if !state.is_alive {
                    break;
                }
                let wire = Wire::new(stream, replica.tls.lock().expect("no panic").accept().expect("random numbers"));
                state.connections.push(Connection { wire: wire.clone(), receives_for: None });
                drop(state);
                let replica = replica.clone();
                thread::spawn(move || replica.attend(&wire));
            }
        });
    }

    /// Reads a connection to its end.
    fn attend(&self, wire: &Wire) {
        let challenge = Challenge(std::array::from_fn(|at| at as u8 ^ wire.peer().map_or(0, |peer| peer.port() as u8)));
        let mut buffer = FrameBuffer::default();
        let mut actor = None;
        while let Ok(Some(bytes)) = wire.read() {
            buffer.push(&bytes);
            while let Decoded::Frame(message) = buffer.decode::<ToReplica>().expect("clients send good frames") {
                let mut state = self.state();
                while state.manners.hangs {
                    state = self.shared.1.wait(state).expect("no thread of a replica has panicked");
                }
                if !state.is_alive {
                    return;
                }
                let answers = self.answer(&mut state, wire, challenge, &mut actor, message);
                let is_dead = !state.is_alive;
                let mut bytes = Vec::new();
                answers.iter().for_each(|answer| encode(answer, &mut bytes).expect("short"));
                // Under the lock, so that pushes and answers are not mixed. A client may be gone.
                drop(wire.write(&bytes));
                drop(state);
                if is_dead {
                    self.kill();
                    return;
                }
                if matches!(answers.first(), Some(ToClient::Closing { .. })) {
                    drop(wire.finish());
                }
            }
        }
        self.state().forget(wire);
    }

    fn answer(
        &self,
        state: &mut State,
        wire: &Wire,
        challenge: Challenge,
        actor: &mut Option<Actor>,
        message: ToReplica,
    ) -> Vec<ToClient> {
        let clock = state.clock();
        match message {
            ToReplica::Hello { cluster, .. } => {
                let reason = match &state.manners.closes {
                    Some(reason) => Some(reason.clone()),
                    None if cluster != self.cluster => {
                        Some(CloseReason::WrongCluster { cluster: self.cluster.clone() })
                    }
                    None => None,
                };
                vec![match reason {
                    Some(reason) => ToClient::Closing { reason },
                    None => ToClient::Welcome { version: 1, replica: self.name.clone(), clock, challenge },
                }]
            }
            ToReplica::Login { account, key, receive, proof: LoginProof::Signature { signature } } => {
                let statement = self.statement(challenge, &account, key, wire);
                if !statement.is_signed_by(&signature) {
                    return vec![ToClient::LoginRefused { account, reason: LoginRefusal::BadProof }];
                }
                state.receive(wire, receive.then(|| account.clone()));
                *actor = Some(Actor { account: account.clone(), key });
                vec![ToClient::LoggedIn { account }]
            }
            ToReplica::Logout => {
                *actor = None;
                state.receive(wire, None);
                Vec::new()
            }
            ToReplica::Ping { sent } => vec![ToClient::Pong { sent, clock }],
            ToReplica::PingPeers => {
                state.rounds += 1;
                ping_peers(&state.manners.peers, clock)
            }
            ToReplica::Status => vec![ToClient::Status { report: Box::new(self.report(state)) }],
            ToReplica::Query { id, timestamp, query } => {
                state.timestamps.push(timestamp);
                if take_one(&mut state.manners.refuses_queries) {
                    let (request, reason) = (RequestId::Query { id }, Refusal::NotServing);
                    return vec![ToClient::Refused { request, timestamp, reason, clock }];
                }
                state.inboxes += u64::from(matches!(query, Query::Inbox { .. }));
                let answer = state.chat.read(actor.as_ref(), query, state.manners.page);
                let answer = answer.unwrap_or_else(|reason| QueryAnswer::Rejected { reason });
                vec![ToClient::QueryAnswer { id, answer, metadata: METADATA }]
            }
            ToReplica::Request { client, sequence, timestamp, command } => {
                let request = Request { client, sequence, actor: actor.clone(), command };
                let other =
                    Request { command: Command::Block { name: nobody(), is_blocked: false }, ..request.clone() };
                let uid = other.uid(timestamp.before(Duration::from_millis(1)));
                let answer = state.manners.answers_another.clone();
                let other = answer.map(|answer| ToClient::Answer { client, sequence, uid, answer, metadata: METADATA });
                other.into_iter().chain(state.take(timestamp, request)).collect()
            }
        }
    }

    fn statement(&self, challenge: Challenge, account: &AccountName, key: PublicKey, wire: &Wire) -> LoginStatement {
        LoginStatement {
            cluster: self.cluster.clone(),
            cluster_id: ClusterId::parse(CLUSTER_ID).expect("an id"),
            replica: self.name.clone(),
            challenge,
            account: account.clone(),
            key,
            channel: ChannelBinding(wire.channel()),
        }
    }

    fn report(&self, state: &State) -> StatusReport {
        let clock = state.clock();
        let (log_digest, state_digest) = (Digest([0xd1; 32]), Digest([state.manners.state; 32]));
        let position = state.sent.len() as u64;
        let boundary = |second| BoundaryDigests { second, position, log_digest, state_digest };
        let last = clock.0 / 1_000_000_000 - 2;
        StatusReport {
            replica: self.name.clone(),
            version: "0".into(),
            phase: if state.manners.is_stopping { ReportedPhase::Stopping } else { ReportedPhase::Serving },
            is_muted: false,
            good_clock: None,
            epoch: 1,
            restarts: 0,
            join_wait_ns: None,
            applied: LogMark { uid: Uid::MIN, position, log_digest },
            state_digest,
            boundaries: (last - 7..=last).map(boundary).collect(),
            settled: 0,
            clock,
            closed: clock.before(Duration::from_millis(25)),
            grace_ns: 25_000_000,
            has_barrier: false,
            pending: 0,
            peers: Vec::new(),
            catching_up: None,
            counters: Counters { closed: position, ..Counters::default() },
            contents: StateContents::default(),
        }
    }
}

/// Accepts connections with this certificate and private key.
fn acceptor(identity: &str, authority: &Authority) -> TlsAcceptor {
    let identity = Identity::from_pem(identity).expect("a certificate");
    TlsAcceptor::new(authority.certificate(), &identity).expect("a good certificate")
}

/// Counts down. Returns whether there was one left.
fn take_one(rest: &mut u64) -> bool {
    let had = *rest > 0;
    *rest = rest.saturating_sub(1);
    had
}

const METADATA: AnswerMetadata =
    AnswerMetadata { position: 7, log_digest: Digest::ZERO, stability: Stability::RealTime, copies: 1 };

impl State {
    fn clock(&self) -> Timestamp {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
        Timestamp::ZERO.after(time).offset_by(self.manners.clock_offset)
    }

    /// Closes a connection that the client has ended.
    fn forget(&mut self, wire: &Wire) {
        let peer = wire.peer();
        self.connections.retain(|connection| connection.wire.peer() != peer);
        // The client may have closed it by now.
        drop(wire.cut());
    }

    /// The sessions in which anything was applied.
    pub fn sessions(&self) -> Vec<ClientId> {
        self.chat.sessions().collect()
    }

    /// The key of an account, if it exists.
    pub fn key(&self, name: &AccountName) -> Option<PublicKey> {
        self.chat.key(name)
    }

    /// Makes an account exist, unless it does.
    pub fn create(&mut self, name: &AccountName, key: PublicKey) {
        self.chat.create(name, key);
    }

    /// How many messages are unread.
    pub fn unread(&self) -> usize {
        self.chat.unread()
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// How many connections have messages pushed.
    pub fn listeners(&self) -> usize {
        self.connections.iter().filter(|connection| connection.receives_for.is_some()).count()
    }

    fn receive(&mut self, wire: &Wire, account: Option<AccountName>) {
        let peer = wire.peer();
        for connection in &mut self.connections {
            if connection.wire.peer() == peer {
                connection.receives_for.clone_from(&account);
            }
        }
    }

    fn push(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        encode(&ToClient::Delivery { message: message.clone() }, &mut bytes).expect("short");
        for connection in &mut self.connections {
            if connection.receives_for.as_ref().is_some_and(|name| message.to.to_string() == name.as_str()) {
                // A client may be gone.
                drop(connection.wire.write(&bytes));
            }
        }
    }

    /// Refuses a request, or applies and answers it, as the manners say.
    fn take(&mut self, timestamp: Timestamp, request: Request) -> Option<ToClient> {
        self.timestamps.push(timestamp);
        let clock = self.clock();
        let (client, sequence) = (request.client, request.sequence);
        let far_away = timestamp.since(clock).max(clock.since(timestamp)) > Duration::from_secs(600);
        if far_away || take_one(&mut self.manners.refuses) {
            let request = RequestId::Command { client, sequence };
            return Some(ToClient::Refused { request, timestamp, reason: Refusal::Late, clock });
        }
        let uid = request.uid(timestamp);
        let (answer, message) = self.chat.apply(uid, request, self.manners.rejects_sends.as_ref());
        if let Some(message) = message {
            self.sent.push(message.text.as_str().into());
            self.push(&message);
        }
        if let Some(rest) = &mut self.manners.dies_after {
            self.is_alive = *rest > 0;
            *rest = rest.saturating_sub(1);
        }
        let is_heard = self.is_alive && !self.manners.is_mute;
        is_heard.then_some(ToClient::Answer { client, sequence, uid, answer, metadata: METADATA })
    }
}

/// The name of no account.
fn nobody() -> AccountName {
    AccountName::parse("nobody").expect("a name")
}
