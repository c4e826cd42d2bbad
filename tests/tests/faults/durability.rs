//! SIGKILL at random moments under load: every answered request is in the log once and in order, and the store is sound.

use stablechat_protocol::answer::Answer;
use stablechat_protocol::command::UNREAD_MAX;
use stablechat_protocol::operator::InitialSettings;
use stablechat_protocol::uid::Uid;
use stablechat_server::store::schema::StoreIdentity;
use stablechat_server::store::{ChatStore, Location};
use stablechat_tests::cluster::{CLUSTER, Cluster};
use stablechat_tests::pipeline::{Meaning, Pipeline, Settled};
use stablechat_tests::raw::{RawClient, create_accounts};
use stablechat_tests::session::{Person, send};
use stablechat_tests::wait::SOON;
use std::time::Duration;

const DELIVERY_BOUND: Duration = Duration::from_millis(20);
const KILLS: usize = 50;
/// A replica is killed after at most so many answers. Lives are measured in answers rather than in time, so that a slow machine
/// kills under load too, and a quick one does not fill the mailbox.
const ANSWERS_MAX: usize = 1000;
/// The kill comes up to this long after the last awaited answer: at any point of the work on the requests in flight, which takes
/// a few milliseconds.
const KILL_DELAY_MAX: Duration = Duration::from_millis(20);
/// How many requests are in flight.
const WINDOW: usize = 64;
// Nobody reads the messages before the end. In each life the awaited answers and two windows of requests are issued at most.
const _: () = assert!(((KILLS * (ANSWERS_MAX + 2 * WINDOW)) as u64) < UNREAD_MAX);

/// A client that sends numbered messages and keeps the answers.
struct Sender {
    alice: Person,
    pipeline: Pipeline,
    random: fastrand::Rng,
    settled: Vec<Settled>,
}

impl Sender {
    /// Connects to a replica that has just started, and repeats the unanswered requests.
    fn connect(&mut self, cluster: &Cluster) -> RawClient {
        let mut client = cluster.greet("a");
        client.login(&self.alice, false);
        // Whatever it said before, the replica may be gone again.
        client.send_bytes(&self.pipeline.repeat_from(0)).ok();
        client
    }

    /// Keeps the window full until a random number of requests has been answered, and returns at a random moment after it has
    /// been filled once more.
    fn send_for_one_life(&mut self, client: &mut RawClient) {
        let enough = self.settled.len() + self.random.usize(0..ANSWERS_MAX);
        while self.settled.len() < enough {
            self.fill_window(client);
            assert!(self.take_answers(client, SOON), "the replica ended a connection");
        }

        self.fill_window(client);
        std::thread::sleep(KILL_DELAY_MAX.mul_f64(self.random.f64()));
    }

    fn fill_window(&mut self, client: &mut RawClient) {
        let mut frames = Vec::new();
        while self.pipeline.in_flight() < WINDOW {
            let number = self.pipeline.session().sequence + 1;
            let padding = "x".repeat(self.random.usize(0..2000));
            self.pipeline.issue(send("bob", format!("{number} {padding}")), &mut frames);
        }
        client.send_bytes(&frames).expect("the connection stands");
    }

    /// Waits for answers, up to a limit. Returns whether the connection is open.
    fn take_answers(&mut self, client: &mut RawClient, limit: Duration) -> bool {
        let (messages, stands) = client.receive_some(limit);
        for message in &messages {
            match self.pipeline.on_message(message) {
                Meaning::Settled(settled) => {
                    assert_eq!(settled.answer, Answer::Done, "request {}", settled.sequence);
                    self.settled.push(settled);
                }
                // The replica may have been killed meanwhile; then they are repeated later.
                Meaning::Repeat(frames) => drop(client.send_bytes(&frames)),
                Meaning::Nothing => {}
            }
        }
        stands
    }
}

/// Opens the store of a replica that was killed, checks it, and checks that each answered request is in its log.
fn check_store(cluster: &Cluster, settled: &[Settled]) {
    let identity = StoreIdentity { cluster: CLUSTER.into(), replica: "a".into() };
    let store =
        ChatStore::open(&Location::Directory(cluster.data("a")), &identity, &InitialSettings::OPEN).expect("a store");
    let report = store.check();
    assert_eq!((&report.faults[..], report.unapplied), (&[][..], 0));
    let first = settled.iter().map(|settled| settled.uid).min().unwrap_or(Uid::MIN);
    let log: std::collections::BTreeMap<Uid, u64> = store
        .log()
        .entries(first)
        .map(|entry| entry.map(|(uid, entry)| (uid, entry.request.sequence)).expect("the store can be read"))
        .collect();
    for Settled { sequence, uid, .. } in settled {
        assert_eq!(log.get(uid), Some(sequence), "request {sequence} was answered, but {uid} is not in the log");
    }
}

#[test]
fn answered_requests_survive_fifty_kills_under_load() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut cluster = Cluster::start(&["a"], DELIVERY_BOUND);
    let (alice, bob) = (Person::new("alice"), Person::new("bob"));
    create_accounts(&mut cluster.greet("a"), &[&alice, &bob]);
    let pipeline = Pipeline::default();
    let mut sender = Sender { alice, pipeline, random: random.fork(), settled: Vec::new() };

    let mut checked = 0;
    for kill in 0..KILLS {
        let mut client = sender.connect(&cluster);
        sender.send_for_one_life(&mut client);
        cluster.kill("a");
        // Answers that were sent before the kill count.
        while sender.take_answers(&mut client, SOON) {}
        // All answers since the last check, and at the end all there ever were.
        let last = kill + 1 == KILLS;
        check_store(&cluster, &sender.settled[if last { 0 } else { checked }..]);
        checked = sender.settled.len();
        // Sometimes it is killed again while it starts.
        if random.u8(..) < 64 {
            cluster.spawn_replica("a");
            std::thread::sleep(Duration::from_millis(random.u64(0..60)));
            cluster.kill("a");
        }
        cluster.start_replica("a");
    }

    // The unanswered requests are repeated. After that each message is there once, in order.
    let mut client = sender.connect(&cluster);
    while sender.pipeline.in_flight() > 0 {
        assert!(sender.take_answers(&mut client, SOON), "the replica ended a connection");
    }
    client.login(&bob, false);
    let messages = client.unread();
    let number = |text: &str| text.split(' ').next().and_then(|number| number.parse().ok());
    let numbers: Vec<u64> = messages.iter().filter_map(|message| number(message.text.as_str())).collect();
    let sent = sender.pipeline.session().sequence;
    println!("{sent} messages, {} repetitions after refusals", sender.pipeline.repetitions());
    let wrong = numbers.iter().zip(1..).find(|(number, expected)| **number != *expected);
    assert_eq!((wrong, numbers.len() as u64), (None, sent), "each message once and in order");
}
