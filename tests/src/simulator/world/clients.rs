//! The clients: what they send, what arrives at them, and what their sessions conclude from it.

use super::{RunPhase, SimEvent, World};
use crate::simulator::client::Client;
use crate::simulator::network::Way;
use crate::simulator::situations::{FOREIGN_ANSWER, OTHER_COMMAND};
use crate::simulator::{Check, Mode, Violation};
use stablechat_client::session::AnswerKind;
use stablechat_protocol::answer::{Answer, Refusal, Rejection, Stability};
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::request::Request;
use stablechat_protocol::session::ClientId;
use stablechat_protocol::uid::Uid;
use stablechat_server::replica::ConnectionId;
use std::time::Duration;

/// The most milliseconds before a client makes a lost connection again.
pub(super) const RECONNECT_MAX_MS: u64 = 60;

/// A replica's answer to a command.
struct Answered {
    request: (ClientId, u64),
    uid: Uid,
    answer: Answer,
    stability: Stability,
}

impl World {
    /// A message comes from a client; none is the end of the connection.
    pub(super) fn on_arrival_at_node(&mut self, id: ConnectionId, message: Option<ToReplica>) {
        let connection = self.network.connection(id);
        let node = connection.node;
        let is_lost = message.is_some() && self.network.is_lost(id, Way::Up);
        if self.nodes[node].is_up() && self.nodes[node].incarnation == connection.incarnation && !is_lost {
            self.nodes[node].arrive(id, message);
            self.plan_turn(node);
        }
    }

    /// A message comes from a replica; none is the end of the connection.
    pub(super) fn on_arrival_at_client(&mut self, id: ConnectionId, message: Option<ToClient>) -> Check {
        let connection = self.network.connection(id);
        let (client, node) = (connection.client, connection.node);
        if self.clients[client].links[node].connection != Some(id) {
            return Ok(());
        }
        let Some(message) = message else {
            self.clients[client].on_lost(self.now, node);
            let wait = Duration::from_millis(1 + self.random.u64(..RECONNECT_MAX_MS));
            self.plan(wait, SimEvent::Connect { client, node });
            self.after_client(client);
            return Ok(());
        };
        if self.network.is_lost(id, Way::Down) {
            return Ok(());
        }
        if let ToClient::Refused { reason, .. } = &message {
            self.tally.count(refusal(*reason));
        }
        if let ToClient::QueryAnswer { id, .. } = &message {
            self.checks.on_query_answered((client, *id));
        }
        let answered = match &message {
            ToClient::Answer { client, sequence, uid, answer, metadata } => {
                let request = (*client, *sequence);
                Some(Answered { request, uid: *uid, answer: answer.clone(), stability: metadata.stability })
            }
            _ => None,
        };
        let verdict = self.clients[client].on_message(self.now, node, message);
        if let (Some(answered), Some(verdict)) = (answered, verdict) {
            self.judge(client, answered, verdict)?;
        }
        let Client { doubled, actor, .. } = &self.clients[client];
        if self.scenario.mode == Mode::Bounds && *doubled > 0 {
            return Err(Violation::among_all(format!("{} is shown a message under two uids", actor.account)));
        }
        self.after_client(client);
        Ok(())
    }

    /// Checks what a client concluded from an answer.
    fn judge(&mut self, client: usize, answered: Answered, verdict: AnswerKind) -> Check {
        let Answered { request, uid, answer, stability } = answered;
        match verdict {
            AnswerKind::Answered => {
                let given = self.clients[client].request(request.1);
                if given.as_ref().is_none_or(|given| given.uid(uid.timestamp) != uid) {
                    let what = format!("{answer:?} to {uid} is taken for the answer to {given:?}");
                    return Err(Violation::among_all(what));
                }
                self.checks.on_answered(request, uid);
                self.tally.count("requests answered");
                if answer == (Answer::Rejected { reason: Rejection::DifferentCommand }) {
                    self.tally.count(OTHER_COMMAND);
                }
                if let Some(sent) = self.sent_at.remove(&uid.digest) {
                    self.latencies.add(self.now.since(sent), stability);
                    let is_of_account = !matches!(answer, Answer::Rejected { reason: Rejection::NotOwner { .. } });
                    if self.phase == RunPhase::Epilogue && is_of_account {
                        self.calm_latencies.add(self.now.since(sent), stability);
                    }
                }
            }
            AnswerKind::Foreign => self.tally.count(FOREIGN_ANSWER),
            AnswerKind::Differs { answer, .. } => {
                if self.scenario.mode == Mode::Bounds || self.phase == RunPhase::Epilogue {
                    let account = &self.clients[client].actor.account;
                    let what = format!("{account} got another answer than {answer:?} to its request {}", request.1);
                    return Err(Violation::among_all(what));
                }
                self.tally.count("answers that differ");
            }
            _ => {}
        }
        Ok(())
    }

    /// A client sends what is due.
    pub(super) fn on_wake(&mut self, client: usize) {
        if self.wakes[client] == Some(self.now) {
            self.wakes[client] = None;
            self.clients[client].wake(&mut self.random, self.now);
            self.after_client(client);
        }
    }

    /// A client connects, or tries again later.
    pub(super) fn on_connect(&mut self, client: usize, node: usize) {
        if !self.nodes[node].is_up() {
            let wait = Duration::from_millis(50 + self.random.u64(..RECONNECT_MAX_MS));
            self.plan(wait, SimEvent::Connect { client, node });
            return;
        }
        let connection = self.network.connect(client, node, self.nodes[node].incarnation);
        self.tally.count("connections");
        self.clients[client].on_connected(self.now, node, connection);
        self.after_client(client);
    }

    /// Sends a message to a client, if the connection is there.
    pub(super) fn send_to_client(&mut self, id: ConnectionId, message: ToClient) {
        if let Some(at) = self.network.send(&mut self.random, self.now, id, Way::Down) {
            self.tally.count("messages");
            self.plan_at(at, SimEvent::AtClient(id, Some(message)));
        }
    }

    /// Sends what a client wants to send, and plans its next wake.
    pub(super) fn after_client(&mut self, client: usize) {
        for (link, message) in self.clients[client].take_outbox() {
            self.on_said(client, &message);
            for node in 0..self.nodes.len() {
                let to = &self.clients[client].links[node];
                let is_meant = link.map_or(to.ready, |link| link == node);
                let Some(id) = to.connection.filter(|_| is_meant) else { continue };
                if let Some(at) = self.network.send(&mut self.random, self.now, id, Way::Up) {
                    self.tally.count("messages");
                    self.plan_at(at, SimEvent::AtNode(id, Some(message.clone())));
                }
            }
        }
        if let Some(wanted) = self.clients[client].wants_wake() {
            let at = wanted.max(self.now.next());
            if self.wakes[client].is_none_or(|planned| planned <= self.now || at < planned) {
                self.wakes[client] = Some(at);
                self.plan_at(at, SimEvent::Wake { client });
            }
        }
    }

    /// A client sends something for the first time or again. Its place must be above everything that was answered before the first
    /// time.
    fn on_said(&mut self, client: usize, message: &ToReplica) {
        match message {
            ToReplica::Request { client: session, sequence, timestamp, command } => {
                let (actor, command) = (self.clients[client].actor_of_stage(), command.clone());
                let request = Request { client: *session, sequence: *sequence, actor, command };
                let uid = request.uid(*timestamp);
                self.sent_at.entry(uid.digest).or_insert(self.now);
                self.checks.on_issued(uid);
            }
            ToReplica::Query { id, .. } => self.checks.on_asked((client, *id)),
            _ => {}
        }
    }
}

/// The name that a refusal is counted under.
fn refusal(reason: Refusal) -> &'static str {
    match reason {
        Refusal::Late => "refused late",
        Refusal::Ahead => "refused ahead",
        Refusal::NotServing => "refused not serving",
        Refusal::Overloaded => "refused overloaded",
        Refusal::NoRoom => "refused for lack of room",
        Refusal::TooFast { .. } => "refused too fast",
        Refusal::LoginRefused => "refused as the login",
    }
}
