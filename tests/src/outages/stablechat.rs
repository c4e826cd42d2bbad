//! Replicas of this project, called by clients as the command line has them: each sends a message to every replica, and has its
//! answer from the first that answers.

use super::calls::{Call, Pace};
use super::{Fault, MISSED, Service};
use crate::cluster::Cluster;
use crate::network::Network;
use crate::raw::{RawClient, call_everywhere};
use crate::session::{Person, send};
use crate::talker::{Plan, Talker};
use rustix::process::Signal;
use stablechat_protocol::command::Command as ChatCommand;
use stablechat_protocol::name::AccountName;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const NAMES: [&str; 3] = ["a", "b", "c"];
/// How long the cluster may take to be whole.
const WHOLE: Duration = Duration::from_secs(120);
/// After so many losses of one replica the cluster is made anew: one that begins anew more often, within minutes, waits each time
/// before it joins.
const LOSSES_MAX: u32 = 3;
/// How often one replica comes back with the same messages missed: sending them takes longer than anything else.
const RETURNS_MAX: u32 = 10;
/// The accounts that get the messages: several, since a mailbox has a limit.
const RECIPIENTS: u64 = 32;
/// The senders of the messages that a replica misses, and the requests that each has in flight.
const BULK_SENDERS: u64 = 4;
const BULK_WINDOW: usize = 256;
/// The time after the bulk in which the replicas still expect requests to be under way for as long as in it.
const CALM: Duration = Duration::from_secs(3);

/// A cluster with clients.
pub struct Stablechat {
    delivery_bound: Duration,
    /// Whether each replica has a host of its own, so that cables can be pulled.
    has_cables: bool,
    cluster: Cluster,
    paces: Vec<Pace>,
    talkers: Vec<Talker>,
    /// The accounts of the clients; none in a cluster without accounts yet.
    people: Vec<Person>,
    /// The senders of bulk messages.
    bulk: Vec<Person>,
    /// The calls of clients of clusters before this one.
    calls: Vec<Call>,
    /// How often each replica was lost.
    losses: [u32; 3],
    /// A replica of which there is a copy of its data from before [`MISSED`] messages, and how often it has come back with that.
    behind: Option<(usize, u32)>,
    /// The replicas that are to be mended.
    hurt: Vec<(usize, Fault)>,
}

impl Stablechat {
    /// A cluster with this delivery bound.
    ///
    /// # Errors
    /// Cables are wanted, and this machine does not allow network namespaces.
    pub fn start(delivery_bound: Duration, has_cables: bool) -> Result<Stablechat, String> {
        Ok(Stablechat {
            delivery_bound,
            has_cables,
            cluster: cluster(delivery_bound, has_cables)?,
            paces: Vec::new(),
            talkers: Vec::new(),
            people: Vec::new(),
            bulk: Vec::new(),
            calls: Vec::new(),
            losses: [0; 3],
            behind: None,
            hurt: Vec::new(),
        })
    }

    /// Starts the clients of this cluster, which has the accounts that they need.
    fn begin(&mut self) {
        for (person, pace) in self.people.iter().zip(&self.paces) {
            let plan = Plan { pace: pace.every, command: message, ..Plan::new(&self.cluster, person) };
            std::thread::sleep(pace.first);
            self.talkers.push(plan.start());
        }
    }

    /// Makes the accounts.
    fn populate(&mut self) {
        self.cluster.wait_until_same(WHOLE);
        let mut clients: Vec<RawClient> = NAMES.iter().map(|name| self.cluster.greet(name)).collect();
        let mut person = |name: String| {
            let person = Person::new(&name);
            call_everywhere(&mut clients, &person.create());
            person
        };
        (0..RECIPIENTS).for_each(|number| drop(person(format!("recipient-{number}"))));
        self.bulk = (0..BULK_SENDERS).map(|number| person(format!("bulk-{number}"))).collect();
        self.people = (0..self.paces.len()).map(|number| person(format!("person-{number}"))).collect();
    }

    /// Ends the clients, and keeps their calls.
    fn end(&mut self) {
        for talker in std::mem::take(&mut self.talkers) {
            let transcript = talker.finish();
            assert!(transcript.faults.is_empty(), "{} saw: {:?}", transcript.account, transcript.faults);
            let call =
                |sample: &crate::talker::Sample| Call { begun: sample.issued, took: sample.latency, failed: false };
            self.calls.extend(transcript.samples.iter().map(call));
        }
    }

    /// A replica that is to be hurt: any of those that run.
    fn victim(&mut self) -> usize {
        let mut running = [0, 1, 2].to_vec();
        running.retain(|number| self.hurt.iter().all(|(hurt, _)| hurt != number));
        let victim = running[fastrand::usize(..running.len())];
        self.losses[victim] += 1;
        victim
    }

    /// Sends the messages that a replica will have missed.
    fn send_bulk(&self) {
        let plan = |person| Plan {
            window: BULK_WINDOW,
            messages_max: MISSED / BULK_SENDERS,
            command: message,
            ..Plan::new(&self.cluster, person)
        };
        let talkers: Vec<Talker> = self.bulk.iter().map(|person| plan(person).start()).collect();
        talkers.into_iter().for_each(|talker| drop(talker.join()));
    }

    /// Kills a replica, and sees to it that it lacks [`MISSED`] messages when it starts again.
    fn fall_behind(&mut self) {
        let (victim, returns) = self.behind.unwrap_or_else(|| (self.victim(), 0));
        let name = NAMES[victim];
        self.cluster.kill(name);
        let (data, copy) = (self.cluster.data(name), self.cluster.path().join("behind"));
        if returns == 0 {
            copy_directory(&data, &copy);
            self.send_bulk();
            std::thread::sleep(CALM);
        } else {
            std::fs::remove_dir_all(&data).expect("its data can be removed");
            copy_directory(&copy, &data);
        }
        self.behind = Some((victim, returns + 1));
        self.hurt.push((victim, Fault::Return));
    }

    fn signal(&mut self, victim: usize, signal: Signal) {
        self.cluster.program(NAMES[victim]).signal(signal);
    }
}

impl Service for Stablechat {
    fn name(&self) -> String {
        format!("stablechat {}", env!("CARGO_PKG_VERSION"))
    }

    fn faults(&self) -> Vec<Fault> {
        Fault::ALL.into_iter().filter(|fault| (*fault == Fault::Cut) == self.has_cables).collect()
    }

    fn watch(&self) -> Duration {
        self.delivery_bound * 5 / 4
    }

    fn start_clients(&mut self, paces: Vec<Pace>) {
        self.paces = paces;
        if self.people.is_empty() {
            self.populate();
        }
        self.begin();
    }

    fn stop_clients(&mut self) -> Vec<Call> {
        self.end();
        std::mem::take(&mut self.calls)
    }

    fn prepare(&mut self, fault: Fault) {
        let has_returned = self.behind.is_some_and(|(_, returns)| returns >= RETURNS_MAX);
        if has_returned || self.losses.iter().any(|losses| *losses >= LOSSES_MAX) {
            self.end();
            // The network of the old one is gone before the new one is made.
            self.cluster = Cluster::prepare(&NAMES, self.delivery_bound);
            self.cluster = cluster(self.delivery_bound, self.has_cables).expect("it could be made before");
            (self.losses, self.behind) = ([0; 3], None);
            self.populate();
            self.begin();
            std::thread::sleep(Duration::from_secs(1));
        }
        if fault == Fault::Return {
            self.fall_behind();
        }
    }

    fn hurt(&mut self, fault: Fault) {
        match fault {
            Fault::Nothing => return,
            Fault::Return => {
                let (victim, _) = self.hurt[0];
                return self.cluster.spawn_replica(NAMES[victim]);
            }
            Fault::KillTwo => {
                let first = self.victim();
                self.hurt.push((first, Fault::Kill));
                let second = self.victim();
                self.hurt.push((second, Fault::Kill));
                self.signal(first, Signal::KILL);
                return self.signal(second, Signal::KILL);
            }
            _ => {}
        }

        let victim = self.victim();
        self.hurt.push((victim, fault));
        match fault {
            Fault::Stop => self.signal(victim, Signal::TERM),
            Fault::Pause => self.signal(victim, Signal::STOP),
            Fault::Cut => self.cluster.network().cut(NAMES[victim]),
            Fault::KillAndStart => {
                self.cluster.kill(NAMES[victim]);
                self.cluster.spawn_replica(NAMES[victim]);
            }
            _ => self.signal(victim, Signal::KILL),
        }
    }

    fn mend(&mut self) {
        for (victim, fault) in std::mem::take(&mut self.hurt) {
            let name = NAMES[victim];
            match fault {
                Fault::Kill | Fault::KillSecond => {
                    self.cluster.kill(name);
                    self.cluster.spawn_replica(name);
                }
                Fault::Stop => {
                    self.cluster.wait_for_end(name);
                    self.cluster.spawn_replica(name);
                }
                Fault::Pause => self.signal(victim, Signal::CONT),
                Fault::Cut => self.cluster.network().mend(name),
                Fault::Nothing | Fault::KillAndStart | Fault::KillTwo | Fault::Return => {}
            }
        }
        self.cluster.wait_until_same(WHOLE);
    }
}

fn cluster(delivery_bound: Duration, has_cables: bool) -> Result<Cluster, String> {
    match has_cables {
        true => Ok(Cluster::start_on(Network::new(&NAMES)?, &NAMES, delivery_bound)),
        false => Ok(Cluster::start(&NAMES, delivery_bound)),
    }
}

/// Copies a directory to a place where there is none.
fn copy_directory(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().expect("there is a program cp");
    assert!(copied.success(), "{} cannot be copied to {}", from.display(), to.display());
}

/// The request of this number.
fn message(account: &AccountName, number: u64) -> ChatCommand {
    send(&format!("recipient-{}", number % RECIPIENTS), format!("{account} {number} {}", "x".repeat(100)))
}
