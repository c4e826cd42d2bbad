//! Attacks: their names, their rates, and what their connections send.
//!
//! Every connection of an attack begins with the attack's opening, and then makes the attack's own steps until it holds or is closed,
//! or the time is up. The swarm opens, drives and counts the connections.

use super::targets::{Hostile, Targets};
use super::{accounts, monitoring, queries, strangers};
use crate::cluster::CLUSTER;
use crate::raw::{frame, hello};
use crate::session::wall_clock;
use fastrand::Rng;
use stablechat_protocol::command::Command;
use stablechat_protocol::login::{Challenge, ChannelBinding};
use stablechat_protocol::message::ToReplica;
use stablechat_protocol::name::ReplicaName;
use stablechat_protocol::session::ClientId;
use stablechat_protocol::time::Timestamp;

/// An attack.
#[derive(Debug)]
pub struct Attack {
    pub name: &'static str,
    pub by: By,
    /// A description for the table in the documentation.
    pub summary: &'static str,
    pub rates: Rates,
    pub over: Over,
    /// Whether its connections read the answers.
    pub reading: Reading,
    /// How each connection begins.
    pub opening: Opening,
    /// The next step of a connection, after its opening. It is asked for again when the connection has sent everything and the rates allow
    /// more.
    pub next: fn(&mut Turn) -> Step,
}

impl Attack {
    /// The next step of a connection: the rest of its opening, or a step of its own.
    pub fn step(&self, mut turn: Turn) -> Step {
        match (turn.number, self.opening) {
            (0, Opening::Greeting | Opening::Login(_)) => Step::messages([&hello(CLUSTER)], Then::AwaitWelcome),
            (1, Opening::Login(login)) => {
                let Login { account, receive } = login(turn.group);
                Step::message(&turn.login(&turn.targets.hostile[account], receive))
            }
            (number, opening) => {
                turn.number = number - opening.steps();
                (self.next)(&mut turn)
            }
        }
    }
}

/// The kind of attacker, and the port that it attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A stranger who reaches a replica's port.
    Stranger,
    /// The holder of an account.
    Account,
    /// A stranger who reaches the port for monitoring.
    Monitor,
}

/// What an attack's bytes go over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// TLS, after a handshake as it should be.
    Tls,
    /// The bare socket.
    Socket,
}

/// The most that an attack does, to all replicas together.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Connections at a time.
    pub connections: usize,
    /// Connections opened per second.
    pub opens: u32,
    /// Bytes sent per second. One step may exceed it; the connections then wait until the average is met again.
    pub bytes: u32,
}

/// Whether the connections of an attack read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Everything.
    Always,
    /// Nothing after the welcome.
    Never,
    /// Half of the connections read, the others do not.
    Half,
}

/// How the connections of an attack begin.
#[derive(Clone, Copy, Debug)]
pub enum Opening {
    /// With the attack itself.
    Nothing,
    /// With a greeting.
    Greeting,
    /// With a greeting, and a login that depends on the connection's group.
    Login(fn(group: u64) -> Login),
}

/// A login to a hostile account.
#[derive(Clone, Copy, Debug)]
pub struct Login {
    /// The index of the account.
    pub account: usize,
    /// Whether its messages are to be delivered.
    pub receive: bool,
}

impl Opening {
    /// A greeting, and a login as mordred, the account that most attacks use, without deliveries.
    pub const AS_MORDRED: Opening = Opening::Login(|_| Login { account: 1, receive: false });

    fn steps(self) -> u64 {
        match self {
            Opening::Nothing => 0,
            Opening::Greeting => 1,
            Opening::Login(_) => 2,
        }
    }
}

/// Bytes that a connection sends at once, and what it does after that.
#[derive(Debug)]
pub struct Step {
    pub bytes: Vec<u8>,
    /// The number of frames in the bytes, for the count of requests.
    pub frames: u64,
    pub then: Then,
}

/// What a connection does when it has sent the bytes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It asks for the next step.
    Continue,
    /// It asks for the next step when the replica has welcomed it.
    AwaitWelcome,
    /// It stays open, and sends nothing more.
    Hold,
    /// It is closed.
    Close,
}

impl Step {
    /// Some bytes that are not a number of frames.
    pub fn bytes(bytes: Vec<u8>, then: Then) -> Step {
        Step { bytes, frames: 0, then }
    }

    /// These messages.
    pub fn messages<'a>(messages: impl IntoIterator<Item = &'a ToReplica>, then: Then) -> Step {
        let frames: Vec<Vec<u8>> = messages.into_iter().map(frame).collect();
        Step { frames: frames.len() as u64, bytes: frames.concat(), then }
    }

    /// Nothing, and no further step: the connection stays open.
    pub fn hold() -> Step {
        Step::bytes(Vec::new(), Then::Hold)
    }

    /// One message, then the next step.
    pub fn message(message: &ToReplica) -> Step {
        Step::messages([message], Then::Continue)
    }
}

/// The turn of one connection to send.
pub struct Turn<'a> {
    pub targets: &'a Targets,
    /// The index of the replica that it is connected to.
    pub replica: usize,
    /// How many steps it has made before, not counting those of its opening.
    pub number: u64,
    /// A number that the connections to all replicas that were opened one after the other share.
    pub group: u64,
    /// The replica's name and its challenge, once it has welcomed the connection.
    pub welcome: Option<&'a (ReplicaName, Challenge)>,
    /// What identifies the connection, once its handshake is done.
    pub channel: Option<ChannelBinding>,
    /// Random, by the seed of the attack.
    pub random: &'a mut Rng,
}

impl Turn<'_> {
    /// A good login on this connection.
    pub fn login(&self, person: &Hostile, receive: bool) -> ToReplica {
        let welcome = self.welcome.cloned().expect("asked for after the welcome only");
        person.login(welcome, self.channel.expect("a connection with a welcome is encrypted"), receive)
    }

    /// A new session.
    pub fn client(&mut self) -> ClientId {
        ClientId(std::array::from_fn(|_| self.random.u8(..)))
    }

    /// A request in a session of its own.
    pub fn lone_request(&mut self, command: Command) -> ToReplica {
        ToReplica::Request { client: self.client(), sequence: 1, timestamp: wall_clock(), command }
    }

    /// A timestamp anywhere between a replica's beginning and end of time; half of them near its clock.
    pub fn any_timestamp(&mut self) -> Timestamp {
        let (now, second) = (wall_clock(), 1_000_000_000);
        match self.random.u8(0..8) {
            0 => Timestamp::ZERO,
            1 => Timestamp::MAX,
            2 => Timestamp(self.random.u64(..)),
            3 => now.offset_by(self.random.i64(-86_400 * second..86_400 * second)),
            _ => now.offset_by(self.random.i64(-2 * second..2 * second)),
        }
    }
}

/// All attacks.
pub fn all() -> impl Iterator<Item = &'static Attack> {
    strangers::ATTACKS.iter().chain(queries::ATTACKS).chain(accounts::ATTACKS).chain(monitoring::ATTACKS)
}

/// The attack of this name.
///
/// # Errors
/// There is none. The error lists the names.
pub fn named(name: &str) -> Result<&'static Attack, String> {
    let names = || all().map(|attack| attack.name).collect::<Vec<_>>().join(", ");
    all().find(|attack| attack.name == name).ok_or_else(|| format!("no attack has the name {name:?}, only {}", names()))
}

/// The table of attacks, in Markdown.
pub fn table() -> String {
    let head = "| attack | by | what it does | connections | opened/s | bytes/s |\n|---|---|---|---|---|---|\n";
    let row = |attack: &Attack| {
        let Attack { name, by, summary, rates, .. } = attack;
        let by = match by {
            By::Stranger => "stranger",
            By::Account => "account",
            By::Monitor => "monitor",
        };
        format!("| `{name}` | {by} | {summary} | {} | {} | {} |\n", rates.connections, rates.opens, rates.bytes)
    };
    all().map(row).fold(head.into(), |table, row| table + &row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_differ() {
        let names: BTreeSet<&str> = all().map(|attack| attack.name).collect();
        assert_eq!(names.len(), all().count());
        assert!(named("no such").is_err_and(|error| error.contains("silent-sockets")));
    }
}
