//! How fast an account and a source address may submit commands here, how many accounts an address may create, and how many keys it
//! may try for one.
//!
//! Every command that is applied costs all replicas: a log entry until the log is truncated, a place in a session for a day, and
//! often a message for good. So one that comes too fast is refused, with a time to wait (`Refusal::TooFast`). The rates are far
//! above those of people, and of scripts that send text for people; and the first [`ACCOUNT`]`.burst` commands pass
//! however fast they come, so that a script that pipes 100,000 lines is not slowed down. They bound what a single account or
//! host can do to the disks of all replicas in a day.
//!
//! Each rate is a token bucket, kept as the generic cell rate algorithm does (ITU-T I.371): the time at which the bucket will be
//! full again says everything. Time is monotonic, so a clock that is set neither refills a bucket nor keeps it empty.
//!
//! This is not part of the state machine, and replicas may decide differently: a refusal is no answer. Clients send each request
//! to all replicas, so all count the same requests, and a client gets the highest rate that any of them allows. Queries are not
//! counted: they leave nothing behind. A repetition counts like the first attempt: the poll loop cannot tell the two apart.

use super::Source;
use stablechat_protocol::command::Command;
use stablechat_protocol::login::PublicKey;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::request::{Actor, Request};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The commands that one account may submit: 200,000 commands at once, then 200 per second. That is 17 million a day, about 15 GB on disk.
const ACCOUNT: Rate = Rate { burst: 200_000, interval: Duration::from_millis(5) };
/// The commands that one source address may submit, for all its accounts together: many people may share an address, or a gateway.
const ADDRESS: Rate = Rate { burst: 1_000_000, interval: Duration::from_millis(2) };
/// How many accounts one source address may create: 1,000 at once, then ten per second.
const CREATION: Rate = Rate { burst: 1000, interval: Duration::from_millis(100) };
/// How many wrong keys one source address may try for one account: 20 at once, then two a minute. So passwords cannot be
/// guessed by trying them here. An owner at another address does not notice.
const WRONG_KEYS: Rate = Rate { burst: 20, interval: Duration::from_secs(30) };
/// Bytes of text that cost as much as one command: a long message takes more room than a short one.
const TEXT_PER_COST: usize = 1024;
/// Once a bucket is empty, it refuses everything until a second's worth has gathered. Otherwise a client that keeps many commands in
/// flight would have one of them accepted and all others refused, over and over.
const PAUSE: Duration = Duration::from_secs(1);
/// The most parties that are remembered, about 6 MiB. When there are more, those whose buckets are full are forgotten, which makes
/// no difference. New parties that still find no place share one bucket for each kind.
const PARTIES_MAX: usize = 50_000;
/// The least time between two searches for full buckets, which look at all of them.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The buckets of all parties that have submitted commands lately.
#[derive(Debug)]
pub struct Rates {
    buckets: BTreeMap<Party, Bucket>,
    swept_at: Instant,
}

/// A party: its commands are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Party {
    /// Those of an account, known by the key that its client has proved to hold. A name alone would not do: anybody can log in
    /// under any name with a key of their own, and is rejected later.
    Account(PublicKey),
    /// Those of a network address.
    Address(Source),
    /// Creations of accounts from a network address.
    Creations(Source),
    /// Wrong keys from a network address, for the account whose name has this digest.
    WrongKeys(Source, [u8; 32]),
    /// Those of the accounts that found no place.
    OtherAccounts,
    /// Those of the addresses that found no place.
    OtherAddresses,
    /// Creations from the addresses that found no place.
    OtherCreations,
    /// Wrong keys for the accounts and addresses that found no place.
    OtherWrongKeys,
}

/// How fast something may happen.
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// How much may happen at once.
    burst: u32,
    /// The time in which one more becomes allowed.
    interval: Duration,
}

/// How much of a rate is left.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// When as much as a burst will be allowed again.
    full_at: Instant,
    /// Until when everything is refused.
    refused_until: Option<Instant>,
}

impl Rates {
    pub fn new(now: Instant) -> Rates {
        Rates { buckets: BTreeMap::new(), swept_at: now }
    }

    /// Counts a command that came from this network address.
    ///
    /// # Errors
    /// It comes too fast. It may be sent again after this time.
    pub fn admit(&mut self, now: Instant, source: Source, request: &Request) -> Result<(), Duration> {
        let (cost, actor) = (cost(&request.command), request.actor.as_ref());
        let is_creation = matches!(request.command, Command::Create { .. });
        let parties = [
            Some((Party::Address(source), ADDRESS, cost)),
            actor.map(|Actor { key, .. }| (Party::Account(*key), ACCOUNT, cost)),
            is_creation.then_some((Party::Creations(source), CREATION, 1)),
        ];

        // All buckets are asked before any is charged: a command that one of them refuses must not use up another.
        let mut wait = None;
        for (party, rate, cost) in parties.into_iter().flatten() {
            wait = wait.max(self.bucket(now, party).check(now, rate, cost).err());
        }
        if let Some(wait) = wait {
            return Err(wait);
        }
        for (party, rate, cost) in parties.into_iter().flatten() {
            self.bucket(now, party).count(now, rate, cost);
        }
        Ok(())
    }

    /// Whether another key for an account may be tried from this network address.
    ///
    /// # Errors
    /// Too many were wrong. One may be tried after this time.
    pub fn may_try_key(&mut self, now: Instant, source: Source, account: &AccountName) -> Result<(), Duration> {
        let party = wrong_keys(source, account);
        match self.buckets.get_mut(&party) {
            Some(bucket) => bucket.check(now, WRONG_KEYS, 1),
            None => Ok(()),
        }
    }

    /// Counts a key that is not that of the account.
    pub fn on_wrong_key(&mut self, now: Instant, source: Source, account: &AccountName) {
        self.bucket(now, wrong_keys(source, account)).count(now, WRONG_KEYS, 1);
    }

    /// The bucket of a party, or the one that it shares when there are too many.
    fn bucket(&mut self, now: Instant, party: Party) -> &mut Bucket {
        if self.buckets.len() >= PARTIES_MAX && !self.buckets.contains_key(&party) {
            if now >= self.swept_at + SWEEP_INTERVAL {
                self.swept_at = now;
                self.buckets.retain(|_, bucket| bucket.full_at > now);
            }
            if self.buckets.len() >= PARTIES_MAX {
                return self.buckets.entry(party.others()).or_insert(Bucket::full(now));
            }
        }
        self.buckets.entry(party).or_insert(Bucket::full(now))
    }
}

fn wrong_keys(source: Source, account: &AccountName) -> Party {
    Party::WrongKeys(source, *blake3::hash(account.as_str().as_bytes()).as_bytes())
}

impl Party {
    /// The parties of this kind that found no place.
    fn others(self) -> Party {
        match self {
            Party::Account(_) | Party::OtherAccounts => Party::OtherAccounts,
            Party::Address(_) | Party::OtherAddresses => Party::OtherAddresses,
            Party::Creations(_) | Party::OtherCreations => Party::OtherCreations,
            Party::WrongKeys(..) | Party::OtherWrongKeys => Party::OtherWrongKeys,
        }
    }
}

impl Bucket {
    fn full(now: Instant) -> Bucket {
        Bucket { full_at: now, refused_until: None }
    }

    /// Whether so much is allowed now; the error is the time after which it will be.
    fn check(&mut self, now: Instant, rate: Rate, cost: u32) -> Result<(), Duration> {
        if let Some(until) = self.refused_until.filter(|until| now < *until) {
            return Err(until - now);
        }
        self.refused_until = None;

        let whole = rate.interval * rate.burst;
        if self.full_at.max(now) + rate.interval * cost <= now + whole {
            return Ok(());
        }
        let gathered = PAUSE.max(rate.interval * cost);
        let until = (self.full_at + gathered).checked_sub(whole).unwrap_or(now);
        self.refused_until = Some(until);
        Err(until.saturating_duration_since(now))
    }

    /// Charges a command that [`Bucket::check`] has allowed.
    fn count(&mut self, now: Instant, rate: Rate, cost: u32) {
        self.full_at = self.full_at.max(now) + rate.interval * cost;
    }
}

/// The cost of a command: 1, and more with a long text.
fn cost(command: &Command) -> u32 {
    let text = match command {
        Command::Send { text, .. } => text.as_str().len() / TEXT_PER_COST,
        Command::Create { .. }
        | Command::Delete
        | Command::Read { .. }
        | Command::SetKey { .. }
        | Command::Operate { .. }
        | Command::Room { .. }
        | Command::Block { .. }
        | Command::Mute { .. } => 0,
    };
    1 + u32::try_from(text).unwrap_or(u32::MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stablechat_protocol::conversation::Conversation;
    use stablechat_protocol::session::ClientId;
    use stablechat_protocol::text::MessageText;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    const HOME: Source = Source::LOCAL;

    fn name(name: &str) -> AccountName {
        AccountName::parse(name).expect("a name")
    }

    fn send(key: u8, text: &str) -> Request {
        let text = MessageText::parse(text).expect("a text");
        let command = Command::Send { to: Conversation::with(&name("bob")), text };
        let actor = Some(Actor { account: name("alice"), key: PublicKey([key; 32]) });
        Request { client: ClientId([0; 16]), sequence: 1, actor, command }
    }

    fn create() -> Request {
        let command = Command::Create { name: name("alice"), key: PublicKey([1; 32]), invitation: None };
        Request { client: ClientId([0; 16]), sequence: 1, actor: None, command }
    }

    /// How many of up to `most` requests are admitted at once.
    fn admitted(rates: &mut Rates, now: Instant, source: Source, request: &Request, most: u32) -> u32 {
        (0..most).take_while(|_| rates.admit(now, source, request).is_ok()).count() as u32
    }

    #[test]
    fn an_account_has_a_burst_and_then_its_rate() {
        let mut now = Instant::now();
        let mut rates = Rates::new(now);
        assert_eq!(admitted(&mut rates, now, HOME, &send(1, "hi"), 300_000), ACCOUNT.burst);
        // It is refused until a second's worth has gathered, and told when.
        let wait = rates.admit(now, HOME, &send(1, "hi")).expect_err("it is too fast");
        assert_eq!(wait, Duration::from_secs(1));
        now += wait / 2;
        assert_eq!(rates.admit(now, HOME, &send(1, "hi")), Err(wait / 2));
        now += wait / 2;
        assert_eq!(admitted(&mut rates, now, HOME, &send(1, "hi"), 1000), 200);
        // Another account at the same address is not affected.
        assert_eq!(rates.admit(now, HOME, &send(2, "hi")), Ok(()));
        // After a long pause the burst is there again, and no more.
        now += Duration::from_secs(24 * 3600);
        assert_eq!(admitted(&mut rates, now, HOME, &send(1, "hi"), 300_000), ACCOUNT.burst);
    }

    #[test]
    fn a_long_text_costs_more() {
        let now = Instant::now();
        let mut rates = Rates::new(now);
        assert_eq!(admitted(&mut rates, now, HOME, &send(1, &"x".repeat(4096)), 300_000), ACCOUNT.burst / 5);
    }

    #[test]
    fn an_address_is_limited_whatever_the_accounts() {
        let now = Instant::now();
        let mut rates = Rates::new(now);
        let sent: u32 = (0..10).map(|key| admitted(&mut rates, now, HOME, &send(key, "hi"), 200_000)).sum();
        assert_eq!(sent, ADDRESS.burst);
        assert!(rates.admit(now, HOME, &send(20, "hi")).is_err());
        let elsewhere = Source::of(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)));
        assert_eq!(rates.admit(now, elsewhere, &send(20, "hi")), Ok(()));
    }

    #[test]
    fn an_address_creates_a_bounded_number_of_accounts() {
        let now = Instant::now();
        let mut rates = Rates::new(now);
        let host = |prefix, host| Source::of(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, prefix, 0, 0, 0, host)));
        let created: u32 = (0..4).map(|number| admitted(&mut rates, now, host(1, number), &create(), 300)).sum();
        assert_eq!(created, CREATION.burst, "the addresses of a prefix count as one");
        assert_eq!(rates.admit(now, host(2, 0), &create()), Ok(()));
        assert_eq!(rates.admit(now, host(1, 0), &send(1, "hi")), Ok(()), "other commands are not affected");
        assert_eq!(admitted(&mut rates, now + Duration::from_secs(10), host(1, 9), &create(), 300), 100);
    }

    #[test]
    fn what_is_refused_uses_up_no_other_rate() {
        let now = Instant::now();
        let mut rates = Rates::new(now);
        assert_eq!(admitted(&mut rates, now, HOME, &create(), 2000), CREATION.burst);
        (0..10_000).for_each(|_| assert!(rates.admit(now, HOME, &create()).is_err()));
        let long = "x".repeat(4096);
        let sent: u32 = (0..10).map(|key| admitted(&mut rates, now, HOME, &send(key, &long), 100_000)).sum();
        assert_eq!(sent, (ADDRESS.burst - CREATION.burst) / 5, "the address has what is left after the creations");
    }

    #[test]
    fn parties_are_bounded() {
        let now = Instant::now();
        let mut rates = Rates::new(now);
        let address = |number: u32| Source::of(IpAddr::V4(Ipv4Addr::from(number)));
        let mut anonymous = send(1, "hi");
        anonymous.actor = None;
        for number in 0..2 * PARTIES_MAX as u32 {
            assert_eq!(rates.admit(now, address(number), &anonymous), Ok(()));
        }
        assert_eq!(rates.buckets.len(), PARTIES_MAX + 1);
        // A bucket is full again soon, and its source is forgotten.
        let later = now + SWEEP_INTERVAL;
        assert_eq!(rates.admit(later, address(u32::MAX), &anonymous), Ok(()));
        assert_eq!(rates.buckets.len(), 2, "{:?}", rates.buckets);
    }
}
