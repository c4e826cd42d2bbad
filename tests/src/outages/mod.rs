//! Outages: what the users of a replicated service notice when one of its nodes fails.
//!
//! A [`Service`] of three nodes runs on this machine while clients call it at a steady rate. It is hurt at random moments, and
//! mended again. From the outcomes of all calls, [`figures`] tells for each time how long nobody had an answer, how long the
//! longest answer took, how many calls failed, and when the usual rate was reached again; [`picture`] draws them.
//!
//! [`stablechat`] is ours; [`etcd`] and [`rabbitmq`] are there for comparison, each used as its manual recommends: clients have
//! a connection with one node, and turn to the next when a call fails.

pub mod calls;
pub mod etcd;
pub mod figures;
pub mod nodes;
pub mod picture;
pub mod rabbitmq;
pub mod stablechat;

use calls::{Call, Pace};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What is done to a service. The node that is hurt is the leader, where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing, for comparison.
    Nothing,
    /// SIGKILL.
    Kill,
    /// SIGKILL, and the node is started again at once.
    KillAndStart,
    /// SIGKILL of a second node, at a random moment within 2 s after the first.
    KillSecond,
    /// SIGKILL of two nodes at the same instant.
    KillTwo,
    /// SIGTERM.
    Stop,
    /// A node that was down while [`MISSED`] messages were sent comes back.
    Return,
    /// SIGSTOP for 10 s, then SIGCONT.
    Pause,
    /// The network cable of a node is pulled for 5 s.
    Cut,
}

/// How many messages a node has missed that comes back.
pub const MISSED: u64 = 200_000;

impl Fault {
    pub const ALL: [Fault; 9] = [
        Fault::Nothing,
        Fault::Kill,
        Fault::KillAndStart,
        Fault::KillSecond,
        Fault::KillTwo,
        Fault::Stop,
        Fault::Return,
        Fault::Pause,
        Fault::Cut,
    ];

    /// How long it lasts, if it is one that ends by itself or is ended: until then its effects are watched.
    pub fn lasts(self) -> Option<Duration> {
        match self {
            Fault::Pause => Some(Duration::from_secs(10)),
            Fault::Cut => Some(Duration::from_secs(5)),
            // Until the node is back.
            Fault::Return => Some(Duration::ZERO),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Fault::Nothing => "nothing",
            Fault::Kill => "kill",
            Fault::KillAndStart => "kill-and-start",
            Fault::KillSecond => "kill-second",
            Fault::KillTwo => "kill-two",
            Fault::Stop => "stop",
            Fault::Return => "return",
            Fault::Pause => "pause",
            Fault::Cut => "cut",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Fault, String> {
        let names: Vec<&str> = Fault::ALL.iter().map(|fault| fault.name()).collect();
        let found = Fault::ALL.into_iter().find(|fault| fault.name() == text);
        found.ok_or_else(|| format!("there is no fault {text:?}; the faults are {}", names.join(", ")))
    }
}

/// A service of three nodes.
pub trait Service {
    /// Its name and version.
    fn name(&self) -> String;

    /// The faults that it survives, and that can be done to it here.
    fn faults(&self) -> Vec<Fault>;

    /// How long the effects of a fault that does not end by itself are watched: some times as long as they usually last.
    fn watch(&self) -> Duration;

    /// Starts clients, one for each pace.
    fn start_clients(&mut self, paces: Vec<Pace>);

    /// Ends the clients, and returns all their calls.
    fn stop_clients(&mut self) -> Vec<Call>;

    /// Prepares a fault, for as long as that takes.
    fn prepare(&mut self, _fault: Fault) {}

    /// Does the harm, and returns at once. For [`Fault::KillSecond`] it is called with [`Fault::Kill`] before.
    fn hurt(&mut self, fault: Fault);

    /// Undoes the harm, and waits until the service is whole again.
    fn mend(&mut self);
}
