//! A battle: three replicas, the honest people, and rounds of attacks.

use super::honest::{Pair, Visits, visit};
use super::rounds::Round;
use super::swarm::{Spent, Swarm};
use super::targets::Targets;
use super::watch::{Counted, Memory};
use crate::cluster::Cluster;
use crate::ledger::{Kept, kept, received, same};
use crate::process::run_to_end;
use crate::raw::{RawClient, call_everywhere};
use crate::session::Person;
use crate::talker::Transcript;
use crate::wait::SOON;
use stablechat_protocol::answer::QueryAnswer;
use stablechat_protocol::command::Query;
use stablechat_protocol::name::Pattern;
use stablechat_protocol::operator::Registration;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The replicas.
pub const NAMES: [&str; 3] = ["a", "b", "c"];
/// How long the honest pair may wait for an answer when the attacks are over: as long as their talkers wait.
const RECOVERY: Duration = Duration::from_secs(120);
/// The time between two looks at the replicas' memory. Memory tells nobody that it has grown, so it is looked at often, and each
/// time is short against a round. Shorter peaks show in [`Memory::peak`].
const LOOKS: Duration = Duration::from_millis(20);

/// The facts about a battle, without a judgement.
#[derive(Debug)]
pub struct Happened {
    /// The time without attacks.
    pub quiet: (Instant, Instant),
    /// The replicas' memory in that time.
    pub idle: Memory,
    pub rounds: Vec<Fought>,
    /// The peak of the replicas' memory.
    pub peak: Memory,
    /// The counters of the replicas, for the time of the attacks.
    pub counted: Counted,
    pub transcripts: Vec<Transcript>,
    /// The messages of each of the pair that were answered, and how they ended up in the other's mailbox.
    pub kept: Vec<Kept>,
    pub visits: Visits,
    /// Faults that the other fields do not show.
    pub faults: Vec<String>,
}

/// A round that is over.
#[derive(Debug)]
pub struct Fought {
    pub round: Round,
    pub spent: Vec<Spent>,
    /// The time from the beginning until the honest pair had the answers to all that they had sent.
    pub time: (Instant, Instant),
    /// How long that took from the end of the attacks.
    pub recovery: Duration,
    /// The most memory that the replicas had.
    pub memory: Memory,
    pub counted: Counted,
}

/// Runs a battle. `on_round` is told of each round that is over.
pub fn fight(
    delivery_bound: Duration,
    quiet: Duration,
    rounds: impl Iterator<Item = Round>,
    on_round: impl FnMut(&Fought),
) -> Happened {
    let mut cluster = Cluster::prepare(&NAMES, delivery_bound).with_metrics();
    NAMES.iter().for_each(|name| cluster.start_replica(name));
    cluster.wait_until_same(SOON);
    let [alice, bob] = ["alice", "bob"].map(Person::new);
    create(&cluster, [&alice, &bob]);
    let targets = Targets::prepare(&cluster, &NAMES, &bob);
    cluster.wait_until_same(SOON);

    let is_enough = AtomicBool::new(false);
    let (mut happened, pair) = std::thread::scope(|scope| {
        let visiting = scope.spawn(|| visit(&cluster, &is_enough));
        let battle = Battle { cluster: &cluster, targets: &targets, pair: Pair::start(&cluster, [&alice, &bob]) };
        let mut happened = battle.run(quiet, rounds, on_round);
        is_enough.store(true, Ordering::Relaxed);
        happened.visits = visiting.join().expect("the visitor does not panic");
        (happened, battle.pair)
    });
    happened.transcripts = pair.finish().into();
    happened.peak = Memory::peak(&cluster, &NAMES);
    happened.faults.extend(operated(&cluster, &targets));
    end(&mut cluster, [&alice, &bob], &mut happened);
    happened
}

/// What only operators may do and has been done: none of these people is one.
fn operated(cluster: &Cluster, targets: &Targets) -> Option<String> {
    let mut client = cluster.greet("a");
    client.login(&Person::operator(), false);
    let (settings, invitations) = match client.ask(Query::Settings) {
        QueryAnswer::Settings { settings, invitations } => (settings, invitations),
        other => return Some(format!("an operator who asks for the settings gets {other:?}")),
    };
    let name = targets.hostile[0].account.as_str();
    let pattern = Pattern::parse(name).expect("a name is a pattern");
    let listed = client.ask(Query::List { pattern, after: None, limit: 1 });
    let is_there = matches!(&listed, QueryAnswer::Accounts { names, .. } if !names.is_empty());
    let is_unchanged = settings.registration == Registration::Open && invitations.is_empty() && is_there;
    (!is_unchanged).then(|| format!("somebody has changed {settings:?}, or removed {name}"))
}

/// Creates the honest accounts: those of the pair, and that of the visitor by the command line, which keeps its key.
fn create(cluster: &Cluster, pair: [&Person; 2]) {
    let mut clients: Vec<RawClient> = NAMES.iter().map(|name| cluster.greet(name)).collect();
    pair.iter().for_each(|person| call_everywhere(&mut clients, &person.create()));
    let created = run_to_end(cluster.client(&["create", "carol"]));
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
}

/// A battle under way.
struct Battle<'a> {
    cluster: &'a Cluster,
    targets: &'a Targets,
    pair: Pair,
}

impl Battle<'_> {
    /// Lets the pair chat in peace for a while, and then fights the rounds.
    fn run(&self, quiet: Duration, rounds: impl Iterator<Item = Round>, mut on_round: impl FnMut(&Fought)) -> Happened {
        let begin = Instant::now();
        let mut idle = Memory::now(self.cluster, &NAMES);
        while begin.elapsed() < quiet {
            std::thread::sleep(LOOKS);
            idle.raise(&Memory::now(self.cluster, &NAMES));
        }
        let mut happened = Happened {
            quiet: (begin, Instant::now()),
            peak: idle.clone(),
            idle,
            rounds: Vec::new(),
            counted: Counted::default(),
            transcripts: Vec::new(),
            kept: Vec::new(),
            visits: Visits::default(),
            faults: Vec::new(),
        };
        if let Err(fault) = self.run_rounds(&mut happened, rounds, &mut on_round) {
            happened.faults.push(fault);
        }
        happened
    }

    /// Fights until the last round, or until the honest pair or a replica no longer answers.
    fn run_rounds(
        &self,
        happened: &mut Happened,
        rounds: impl Iterator<Item = Round>,
        on_round: &mut impl FnMut(&Fought),
    ) -> Result<(), String> {
        let first = Counted::now(self.cluster, &NAMES)?;
        let mut before = first;
        for round in rounds {
            let (begin, names) = (Instant::now(), round.attacks.iter().map(|(attack, _)| attack.name));
            let names: Vec<&str> = names.collect();
            let (spent, mut memory) = self.attack(&round);
            let after = Instant::now();
            let recovery = self.recover(&mut memory).map_err(|fault| format!("{names:?}: {fault}"))?;
            let now = Counted::now(self.cluster, &NAMES).map_err(|fault| format!("{names:?}: {fault}"))?;
            let time = (begin, after + recovery);
            let fought = Fought { round, spent, time, recovery, memory, counted: now - before };
            on_round(&fought);
            happened.rounds.push(fought);
            happened.counted = now - first;
            before = now;
        }
        Ok(())
    }

    /// Runs the attacks of a round at the same time, and watches the replicas' memory.
    fn attack(&self, round: &Round) -> (Vec<Spent>, Memory) {
        let until = Instant::now() + round.length;
        let mut memory = Memory::now(self.cluster, &NAMES);
        let spent = std::thread::scope(|scope| {
            let attacks = round.attacks.iter().map(|(attack, seed)| {
                scope.spawn(move || {
                    let swarm = Swarm::new(attack, self.targets, *seed);
                    swarm.and_then(|swarm| swarm.attack(until)).expect("sockets can be watched")
                })
            });
            let attacks: Vec<_> = attacks.collect();
            while attacks.iter().any(|attack| !attack.is_finished()) {
                std::thread::sleep(LOOKS);
                memory.raise(&Memory::now(self.cluster, &NAMES));
            }
            attacks.into_iter().map(|attack| attack.join().expect("an attack does not panic")).collect()
        });
        (spent, memory)
    }

    /// Waits until the pair have the answers to all that they have sent until now. Returns how long that takes.
    fn recover(&self, memory: &mut Memory) -> Result<Duration, String> {
        let begin = Instant::now();
        // One more than is sent, so that at least one message was sent after the attacks.
        let issued = self.pair.issued().map(|issued| issued + 1);
        while !self.pair.are_answered(issued) {
            if self.pair.has_ended() || begin.elapsed() > RECOVERY {
                return Err("the honest pair gets no answers".into());
            }
            std::thread::sleep(LOOKS);
            memory.raise(&Memory::now(self.cluster, &NAMES));
        }
        Ok(begin.elapsed())
    }
}

/// Stops the replicas, and looks into their stores. If the battle ended with a fault, a replica may no longer answer, and there
/// is nothing to wait for.
fn end(cluster: &mut Cluster, [alice, bob]: [&Person; 2], happened: &mut Happened) {
    for name in NAMES {
        if let Some(status) = cluster.program(name).ended() {
            happened.faults.push(format!("replica {name} ended with {status}: {}", cluster.log(name)));
            return;
        }
    }
    if !happened.faults.is_empty() {
        return;
    }
    cluster.wait_until_same(RECOVERY);
    for name in NAMES {
        let status = cluster.stop(name);
        if !status.success() {
            happened.faults.push(format!("replica {name} stopped with {status}"));
        }
    }

    let ledgers = match same(cluster, &NAMES) {
        Ok(ledgers) => ledgers,
        Err(fault) => return happened.faults.push(fault),
    };
    let [from_alice, from_bob] = &happened.transcripts[..] else { unreachable!("two people chat") };
    let messages = [(from_alice, bob), (from_bob, alice)];
    happened.kept =
        messages.map(|(transcript, reader)| kept(&ledgers[0], std::slice::from_ref(transcript), reader)).into();
    let visits: Vec<u64> = (1..=happened.visits.latencies.len() as u64).collect();
    let seen = received(&ledgers[0], bob).remove("carol").unwrap_or_default();
    if seen != visits {
        happened.faults.push(format!("{} visits left the messages {seen:?}", visits.len()));
    }
}
