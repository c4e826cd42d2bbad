//! Run by systemd: it is told when the replica is ready, what it does, that it is alive, and when it stops.
//!
//! A thread of its own talks to systemd, so that neither the poll loop nor the applier ever waits for it. At each turn it wants
//! a word: it asks the poll loop for a round, and the applier answers when it has handled one. Rounds are made by the one and
//! used up by the other, so words keep coming only while both threads go round, however little there is to do; and only who has
//! given its word is reported alive. A thread that hangs is thus found by systemd, which ends the process and starts it again.
//!
//! When systemd does not want to be told, there is no such thread, and nothing is done.

use crate::net::LoopWaker;
use parking_lot::Mutex;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a word is wanted.
const TURN: Duration = Duration::from_secs(1);
/// How many times in the time that systemd gives it the watchdog is fed; twice is what systemd asks for.
const FEEDS: u32 = 4;

/// Where the applier gives its word. Clones share it.
#[derive(Clone, Default)]
pub struct Pulse(Arc<Word>);

/// A word of the applier.
#[derive(Default)]
struct Word {
    is_wanted: AtomicBool,
    /// What the replica did when it was last given.
    summary: Mutex<String>,
}

impl Pulse {
    /// The applier has handled a round. Its word is what the replica does; it is only asked for that when someone wants it.
    pub fn beat(&self, summary: impl FnOnce() -> String) {
        if self.0.is_wanted.load(Ordering::Acquire) {
            *self.0.summary.lock() = summary();
            self.0.is_wanted.store(false, Ordering::Release);
        }
    }

    /// Wants a word.
    fn ask(&self) {
        self.0.is_wanted.store(true, Ordering::Release);
    }

    /// The word that was wanted, if it has been given.
    fn word(&self) -> Option<String> {
        (!self.0.is_wanted.load(Ordering::Acquire)).then(|| self.0.summary.lock().clone())
    }
}

/// The thread that talks to systemd.
pub struct Supervisor {
    thread: JoinHandle<()>,
    /// What ends it when it is shut down.
    end: UnixStream,
}

impl Supervisor {
    /// Tells systemd that the replica is ready, and goes on to tell it the rest; none when systemd does not want to be told.
    ///
    /// # Errors
    /// There is no room for a thread or for what ends it.
    pub fn start(pulse: Pulse, prompter: LoopWaker) -> io::Result<Option<Supervisor>> {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(None);
        }
        let watch = Watch::new(pulse, sd_notify::watchdog_enabled(), Instant::now());
        let (stop, end) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(SIGTERM, end.try_clone()?)?;
        signal_hook::low_level::pipe::register(SIGINT, end.try_clone()?)?;
        stop.set_read_timeout(Some(watch.turn()))?;
        let run = move || watch.run(stop, &prompter);
        let thread = std::thread::Builder::new().name("supervisor".into()).spawn(run)?;
        Ok(Some(Supervisor { thread, end }))
    }

    /// Ends it: the replica is about to end.
    ///
    /// # Errors
    /// The socket that ends it cannot be shut down.
    pub fn end(self) -> io::Result<()> {
        self.end.shutdown(Shutdown::Both)?;
        self.thread.join().expect("a panic has ended the process");
        Ok(())
    }
}

/// What is known of the replica, and what systemd was told of it.
struct Watch {
    pulse: Pulse,
    /// After how long without being fed the watchdog bites, if there is one.
    watchdog: Option<Duration>,
    /// When the watchdog was last fed.
    fed: Instant,
    /// What systemd was last told that the replica does.
    told: String,
}

impl Watch {
    /// Wants the first word.
    fn new(pulse: Pulse, watchdog: Option<Duration>, now: Instant) -> Watch {
        pulse.ask();
        Watch { pulse, watchdog, fed: now, told: String::new() }
    }

    /// How long a turn is.
    fn turn(&self) -> Duration {
        self.watchdog.map_or(TURN, |watchdog| TURN.min(watchdog / FEEDS))
    }

    /// Talks to systemd until the replica is asked to stop, or ends.
    fn run(mut self, mut stop: UnixStream, prompter: &LoopWaker) {
        tell(&[NotifyState::Ready]);
        loop {
            prompter.ask_for_reading();
            match stop.read(&mut [0]) {
                // The time for a turn has passed, or another signal came.
                Err(_) => tell(&self.next(Instant::now())),
                Ok(0) => return,
                Ok(_) => {
                    break tell(&[NotifyState::Stopping, NotifyState::Status("stopping, handing over to the others")]);
                }
            }
        }
    }

    /// What systemd is to be told now: that the replica is alive, if it has given its word, and what it does, if that is new.
    fn next(&mut self, now: Instant) -> Vec<NotifyState<'_>> {
        let Some(summary) = self.pulse.word() else { return Vec::new() };
        self.pulse.ask();
        let mut news = Vec::new();
        if self.watchdog.is_some_and(|watchdog| now.duration_since(self.fed) >= watchdog / FEEDS) {
            self.fed = now;
            news.push(NotifyState::Watchdog);
        }
        if summary != self.told {
            self.told = summary;
            news.push(NotifyState::Status(&self.told));
        }
        news
    }
}

/// Tells systemd something, if there is something to tell.
fn tell(news: &[NotifyState<'_>]) {
    if !news.is_empty()
        && let Err(error) = sd_notify::notify(news)
    {
        log::warn!("cannot tell systemd how the replica is: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WATCHDOG: Duration = Duration::from_secs(8);

    /// What systemd is told after so many seconds.
    fn told(watch: &mut Watch, begin: Instant, seconds: u64) -> Vec<String> {
        watch.next(begin + Duration::from_secs(seconds)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_watchdog_is_fed_only_for_a_word_and_the_status_told_only_when_it_is_new() {
        let (pulse, begin) = (Pulse::default(), Instant::now());
        let mut watch = Watch::new(pulse.clone(), Some(WATCHDOG), begin);
        assert_eq!(told(&mut watch, begin, 2), [""; 0], "no word was given");
        pulse.beat(|| "serving".into());
        assert_eq!(told(&mut watch, begin, 3), ["WATCHDOG=1", "STATUS=serving"]);
        assert_eq!(told(&mut watch, begin, 6), [""; 0], "one word is good for one turn");
        pulse.beat(|| "serving".into());
        assert_eq!(told(&mut watch, begin, 7), ["WATCHDOG=1"]);
        pulse.beat(|| "stopping".into());
        pulse.beat(|| unreachable!("nobody wants another word"));
        assert_eq!(told(&mut watch, begin, 8), ["STATUS=stopping"], "it was fed a second ago");
    }

    #[test]
    fn without_a_watchdog_only_the_status_is_told() {
        let (pulse, begin) = (Pulse::default(), Instant::now());
        let mut watch = Watch::new(pulse.clone(), None, begin);
        pulse.beat(|| "serving".into());
        assert_eq!(told(&mut watch, begin, 100), ["STATUS=serving"]);
        assert_eq!((watch.turn(), Watch::new(pulse, Some(WATCHDOG / 4), begin).turn()), (TURN, TURN / 2));
    }
}
