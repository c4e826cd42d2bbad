//! The grace: how far behind the clock a replica closes.
//!
//! A short grace makes answers fast, but a grace shorter than the delays of clients refuses their requests as late. So it follows
//! the delays that are observed between the timestamps of requests and their direct arrival (adaptive deadlines, as in Geng et
//! al., *Nezha*, 2023).
//!
//! **The problem.** Timestamps come from clients. A client that stamps its requests too early would make everybody wait, and one
//! that sends many requests from next door would have the requests of clients further away refused.
//!
//! **Accounts vote.** Each account has one vote, however many connections it has and however much it sends: the p99.9 of its own
//! delays, and a quarter on top. The grace covers
//!
//! 1. the votes of half of the accounts that have sent something in the last [`VOTE_LIFETIME`], and
//! 2. every vote of the last seconds up to [`LONE_MAX`], and for [`FAR_WINDOW`] in every [`FAR_PERIOD`] without that limit: so a
//!    client that is further away than most is served, soon or within seconds, and does not slow down all others for good.
//!
//! Clients that speak for no account share one vote. It counts only while no account has one, as when the first account of a
//! cluster is made. A request that is older than the longest grace does not count.
//!
//! A replica that no account speaks to, as after a restart, would keep the longest grace and make the others wait for it. There the
//! graces of the peers that welcome it count instead, and the delays of requests that it first hears of from a peer. They only
//! shorten the grace: nobody is refused by a replica that it does not speak to, and the grace does not grow by the delays between
//! peers.

use super::Sender;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::time::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// The least grace.
pub const GRACE_MIN: Duration = Duration::from_micros(200);
/// The most that an account can lengthen the grace by against the votes of half of the others. It covers the way of a request
/// across a continent or an ocean.
const LONE_MAX: Duration = Duration::from_millis(50);
/// How long an account may lengthen the grace further: long enough to be refused, to wait (`BACKOFF_MAX` of a client is 1 s), and to
/// try again.
const FAR_WINDOW: Duration = Duration::from_secs(2);
/// How often it may do so. The pauses are long enough that the median of the others' latencies does not change.
const FAR_PERIOD: Duration = Duration::from_secs(10);
/// How long an account's last vote counts for the half. Longer than people are silent in a conversation: otherwise an account that
/// never rests would often be the only one that votes.
const VOTE_LIFETIME: Duration = Duration::from_secs(600);
/// The most accounts that have votes. The one that has been silent for longest makes room for another.
const ACCOUNTS_MAX: usize = 1024;

/// Buckets double in width every four; the first ends at [`FIRST_BUCKET_NS`], the last lies beyond any delivery bound.
const BUCKETS: usize = 128;
const FIRST_BUCKET_NS: f64 = 10_000.0;
/// Delays count for one to two stretches of this length: those of the current stretch, and of the one before.
const STRETCH: Duration = Duration::from_secs(1);
/// The share of delays that may be longer than the grace: one in so many.
const LATE_ONE_IN: u32 = 1000;
/// With at least this many delays, one of them does not count: a single retransmitted request would make all others wait.
const OUTLIER_FROM: u32 = 32;

/// The votes of the accounts, and the grace that follows from them.
#[derive(Debug)]
pub struct Grace {
    /// Of accounts that have sent something in the last [`VOTE_LIFETIME`]; at most [`ACCOUNTS_MAX`].
    accounts: BTreeMap<AccountName, Delays>,
    /// The delays of all clients that speak for no account, from before any account had a vote.
    strangers: Delays,
    /// The grace that peers have, or that is needed for the requests that they have told us of, since no account speaks to us.
    indirect: Option<Duration>,
    /// When an account was last heard.
    heard_at: Timestamp,
    /// When votes were last looked at for their age.
    reviewed_at: Timestamp,
    /// Until when an account may lengthen the grace beyond [`LONE_MAX`].
    far_until: Timestamp,
    /// The most that the grace may be: Δ/N.
    max: Duration,
    /// The grace that follows from all this.
    current: Duration,
}

impl Grace {
    /// Begins with the longest grace, until delays have been observed.
    pub fn new(max: Duration) -> Grace {
        Grace {
            accounts: BTreeMap::new(),
            strangers: Delays::default(),
            indirect: None,
            heard_at: Timestamp::ZERO,
            reviewed_at: Timestamp::ZERO,
            far_until: Timestamp::ZERO,
            max,
            current: max,
        }
    }

    /// The most that it may be: Δ/N.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// How far behind the clock to close.
    pub fn current(&self) -> Duration {
        self.current
    }

    /// Takes in the delay of a request that was first heard of from a peer.
    pub fn observe_indirect(&mut self, now: Timestamp, delay: Duration) {
        self.learn(now, length(bucket(delay)));
    }

    /// Takes in a grace that a peer has, or that suffices for the requests that it has told us of. It counts only when no account
    /// has spoken to us lately.
    pub fn learn(&mut self, now: Timestamp, grace: Duration) {
        if now.since(self.heard_at) > STRETCH {
            self.indirect = Some(grace);
            self.current = self.current.min(grace).max(GRACE_MIN);
        }
    }

    /// Takes in the delay of a request that came from its client at `now`, and was accepted, or would be with the longest grace.
    pub fn observe(&mut self, now: Timestamp, sender: &Sender, delay: Duration) {
        match sender {
            // It has not been on its way.
            Sender::Replica => {}
            Sender::Stranger if !self.accounts.is_empty() => {}
            Sender::Stranger => {
                self.strangers.observe(now, delay);
                self.count_votes(now);
            }
            Sender::Account(name) => {
                self.heard_at = now;
                self.indirect = None;
                if self.observe_account(now, name, delay) {
                    self.count_votes(now);
                }
            }
        }
    }

    /// Lets old votes go, once in a while.
    pub fn review(&mut self, now: Timestamp) {
        if now.since(self.reviewed_at) < STRETCH {
            return;
        }
        self.reviewed_at = now;
        self.accounts.retain(|_, delays| now.since(delays.observed_at) <= VOTE_LIFETIME);
        // Without any vote the grace stays as it is.
        if !self.accounts.is_empty() {
            self.count_votes(now);
        }
    }

    /// Notes the delay of an account's request. Returns whether the votes have to be counted.
    fn observe_account(&mut self, now: Timestamp, name: &AccountName, delay: Duration) -> bool {
        if let Some(delays) = self.accounts.get_mut(name) {
            let before = (delays.bucket, delays.is_recent(now));
            delays.observe(now, delay);
            return before != (delays.bucket, true);
        }

        if self.accounts.len() >= ACCOUNTS_MAX {
            let longest_silent = self.accounts.iter().min_by_key(|(_, delays)| delays.observed_at);
            let longest_silent = longest_silent.map(|(name, _)| name.clone());
            if let Some(name) = longest_silent {
                self.accounts.remove(&name);
            }
        }
        self.accounts.entry(name.clone()).or_default().observe(now, delay);
        true
    }

    /// Counts the votes.
    fn count_votes(&mut self, now: Timestamp) {
        let needed = match self.accounts.is_empty() {
            true => length(self.strangers.bucket),
            false => {
                let mut votes: Vec<usize> = self.accounts.values().map(|delays| delays.bucket).collect();
                let half = (votes.len() - 1) / 2;
                let (_, of_half, _) = votes.select_nth_unstable(half);
                let of_half = length(*of_half);
                of_half.max(self.of_recent(now, of_half))
            }
        };
        self.current = self.indirect.map_or(needed, |indirect| needed.min(indirect)).max(GRACE_MIN).min(self.max);
    }

    /// The grace for the votes of the last seconds, as far as one account may lengthen it.
    fn of_recent(&mut self, now: Timestamp, of_half: Duration) -> Duration {
        let recent = self.accounts.values().filter(|delays| delays.is_recent(now)).map(|delays| delays.bucket).max();
        let needed = recent.map_or(Duration::ZERO, length);
        let limit = LONE_MAX.max(of_half);
        if needed > limit && now >= self.far_until.after(FAR_PERIOD - FAR_WINDOW) {
            self.far_until = now.after(FAR_WINDOW);
        }
        if now < self.far_until { needed } else { needed.min(limit) }
    }
}

/// Observed delays, of the current stretch and of the one before.
#[derive(Debug)]
struct Delays {
    /// How many fell into each bucket in the current stretch.
    counts: [u32; BUCKETS],
    /// And in the stretch before, the last in which there were any.
    before: [u32; BUCKETS],
    /// When the current stretch began.
    began_at: Timestamp,
    /// When the last one was observed.
    observed_at: Timestamp,
    /// All but one in [`LATE_ONE_IN`] of them fell into this bucket or below it.
    bucket: usize,
}

impl Default for Delays {
    fn default() -> Self {
        let (counts, before) = ([0; BUCKETS], [0; BUCKETS]);
        Delays { counts, before, began_at: Timestamp::ZERO, observed_at: Timestamp::ZERO, bucket: 0 }
    }
}

impl Delays {
    fn observe(&mut self, now: Timestamp, delay: Duration) {
        self.observed_at = now;
        if now.since(self.began_at) >= STRETCH {
            self.began_at = now;
            self.before = std::mem::replace(&mut self.counts, [0; BUCKETS]);
        }
        let count = &mut self.counts[bucket(delay)];
        *count = count.saturating_add(1);
        self.bucket = self.quantile();
    }

    /// Whether something was observed in the last two stretches.
    fn is_recent(&self, now: Timestamp) -> bool {
        now.since(self.observed_at) <= 2 * STRETCH
    }

    /// The bucket that all but one in [`LATE_ONE_IN`] delays do not lie above.
    fn quantile(&self) -> usize {
        let count = |bucket: usize| self.counts[bucket].saturating_add(self.before[bucket]);
        let total = (0..BUCKETS).map(count).fold(0, u32::saturating_add);
        let mut above = (total / LATE_ONE_IN).max(u32::from(total >= OUTLIER_FROM));
        let mut bucket = BUCKETS - 1;
        while bucket > 0 && count(bucket) <= above {
            above -= count(bucket);
            bucket -= 1;
        }
        bucket
    }
}

/// The bucket of a delay.
fn bucket(delay: Duration) -> usize {
    let doublings = (delay.as_nanos() as f64 / FIRST_BUCKET_NS).max(1.0).log2();
    ((doublings * 4.0).ceil() as usize).min(BUCKETS - 1)
}

/// The grace that covers the delays of a bucket: its end, and a quarter on top.
fn length(bucket: usize) -> Duration {
    let end_ns = FIRST_BUCKET_NS * (bucket as f64 / 4.0).exp2();
    Duration::from_nanos((end_ns * 1.25) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_millis(333);

    const NOW: Timestamp = Timestamp(1_700_000_000_000_000_000);

    fn account(name: &str) -> Sender {
        Sender::Account(AccountName::parse(name).expect("a name"))
    }

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A grace after an account has sent many requests with a delay of 400 µs.
    fn short(names: &[&str]) -> Grace {
        let mut grace = Grace::new(MAX);
        for name in names {
            (0..100).for_each(|_| grace.observe(NOW, &account(name), micros(400)));
        }
        assert!(grace.current() < millis(1), "{:?}", grace.current());
        grace
    }

    #[test]
    fn it_begins_long_and_follows_what_is_observed() {
        let mut grace = Grace::new(MAX);
        let ann = account("ann");
        assert_eq!(grace.current(), MAX);
        grace.observe(NOW, &ann, micros(30));
        assert_eq!(grace.current(), GRACE_MIN);
        (0..3).for_each(|_| grace.observe(NOW, &ann, millis(10)));
        assert!((10..16).contains(&grace.current().as_millis()), "{:?}", grace.current());
        grace.observe(NOW, &ann, Duration::from_secs(100));
        assert_eq!(grace.current(), MAX);
    }

    #[test]
    fn one_in_many_may_be_late() {
        let mut grace = short(&["ann"]);
        let ann = account("ann");
        grace.observe(NOW, &ann, millis(100));
        assert!(grace.current() < millis(1), "{:?}", grace.current());
        (0..50).for_each(|_| grace.observe(NOW, &ann, millis(100)));
        assert!(grace.current() > millis(99), "{:?}", grace.current());
    }

    #[test]
    fn strangers_count_only_while_no_account_does() {
        let mut grace = Grace::new(MAX);
        grace.observe(NOW, &Sender::Stranger, micros(400));
        assert!(grace.current() < millis(1), "{:?}", grace.current());
        grace.observe(NOW, &account("ann"), millis(20));
        let before = grace.current();
        (0..3000).for_each(|_| grace.observe(NOW, &Sender::Stranger, micros(30)));
        assert_eq!(grace.current(), before, "many short delays of strangers");
        (0..3000).for_each(|_| grace.observe(NOW, &Sender::Stranger, millis(300)));
        assert_eq!(grace.current(), before, "many long delays of strangers");
    }

    #[test]
    fn an_account_lengthens_the_grace_by_little_or_for_a_short_time() {
        let mut grace = short(&["ann", "bob"]);
        let (mut long, mut time) = (0, NOW);
        for _ in 0..400 {
            time = time.after(millis(250));
            grace.review(time);
            grace.observe(time, &account("ann"), micros(400));
            grace.observe(time, &account("mallory"), millis(300));
            long += u32::from(grace.current() > LONE_MAX);
        }
        assert!(
            (40..=80).contains(&long),
            "longer than {LONE_MAX:?} in {long} of 400 looks: more than a fifth, or never"
        );

        // The others are silent, as people are for a while.
        for _ in 0..400 {
            time = time.after(millis(250));
            grace.review(time);
            grace.observe(time, &account("mallory"), millis(300));
            long += u32::from(grace.current() > LONE_MAX);
        }
        assert!((80..=160).contains(&long), "longer than {LONE_MAX:?} in {long} of 800 looks");
    }

    #[test]
    fn many_short_delays_of_one_account_do_not_shut_out_another() {
        let mut grace = short(&["mallory"]);
        grace.observe(NOW, &account("ann"), millis(10));
        (0..3000).for_each(|_| grace.observe(NOW, &account("mallory"), micros(30)));
        assert!(grace.current() > millis(10), "{:?}", grace.current());
    }

    #[test]
    fn what_half_of_the_accounts_need_is_covered() {
        let mut grace = short(&["ann", "bob"]);
        ["eve", "dan", "kim"].iter().for_each(|name| grace.observe(NOW, &account(name), millis(200)));
        let time = NOW.after(Duration::from_secs(30));
        grace.review(time);
        assert!(grace.current() > millis(200), "{:?}", grace.current());
        grace.review(NOW.after(VOTE_LIFETIME).next());
        grace.observe(NOW.after(VOTE_LIFETIME).next(), &account("ann"), micros(400));
        assert!(grace.current() < millis(1), "{:?}", grace.current());
    }

    #[test]
    fn the_account_that_was_silent_for_longest_makes_room() {
        let mut grace = Grace::new(MAX);
        for number in 0..=ACCOUNTS_MAX as u64 {
            grace.observe(Timestamp(NOW.0 + number), &account(&format!("user{number}")), micros(30));
        }
        let names: Vec<&str> = grace.accounts.keys().map(AccountName::as_str).collect();
        assert_eq!((names.len(), names.contains(&"user0")), (ACCOUNTS_MAX, false));
    }

    #[test]
    fn indirect_delays_count_while_no_account_sends() {
        let mut grace = Grace::new(MAX);
        let ann = account("ann");
        grace.observe_indirect(NOW, millis(200));
        grace.observe_indirect(NOW, millis(1));
        assert!(grace.current() < millis(2), "{:?}", grace.current());
        grace.observe_indirect(NOW, millis(200));
        assert!(grace.current() < millis(2), "they only shorten the grace: {:?}", grace.current());
        grace.observe(NOW, &ann, millis(100));
        assert!(grace.current() > millis(99), "{:?}", grace.current());
        let later = NOW.after(STRETCH).next();
        grace.learn(later.before(STRETCH / 2), millis(1));
        assert!(grace.current() > millis(99), "{:?}", grace.current());
        grace.observe_indirect(later, millis(1));
        grace.review(later.after(STRETCH));
        assert!(grace.current() < millis(2), "{:?}", grace.current());
    }

    #[test]
    fn old_delays_are_forgotten() {
        let mut grace = Grace::new(MAX);
        let ann = account("ann");
        (0..1000).for_each(|_| grace.observe(NOW, &ann, millis(100)));
        grace.observe(NOW.after(STRETCH), &ann, micros(400));
        assert!(grace.current() > millis(99), "{:?}", grace.current());
        grace.observe(NOW.after(STRETCH * 2), &ann, micros(400));
        assert!(grace.current() < millis(1), "{:?}", grace.current());
    }

    #[test]
    fn what_the_replica_submits_itself_does_not_count() {
        let mut grace = Grace::new(MAX);
        grace.observe(NOW, &Sender::Replica, Duration::ZERO);
        assert_eq!(grace.current(), MAX);
    }
}
