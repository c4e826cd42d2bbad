//! Reports to systemd (`sd_notify(3)`): ready, what the replica is doing, that it is alive, and stopping.
//!
//! A thread of its own talks to systemd, so that neither the poll loop nor the applier ever waits for it. On each turn it
//! requests a heartbeat: it asks the poll loop for an event batch, and the applier beats once it has handled one. A heartbeat
//! therefore needs both threads to run, and arrives even when the replica has nothing to do. The watchdog is fed only after a
//! heartbeat. When a thread hangs, systemd notices, ends the process and starts it again.
//!
//! Without `NOTIFY_SOCKET` in the environment there is no such thread, and heartbeats cost a flag that is never set.

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

/// The time between two requests for a heartbeat, and so the delay with which `systemctl status` shows what the replica is doing.
const TURN: Duration = Duration::from_secs(1);
/// How many times the watchdog is fed in the time that systemd allows. systemd asks for two; more leaves room for a slow turn.
const FEEDS: u32 = 4;

/// By which the applier shows that it runs. Clones share the state.
#[derive(Clone, Default)]
pub struct Heartbeat(Arc<LastBeat>);

#[derive(Default)]
struct LastBeat {
    is_requested: AtomicBool,
    /// What the replica was doing at the last heartbeat.
    summary: Mutex<String>,
}

impl Heartbeat {
    /// The applier has handled an event batch. `summary` says what the replica is doing; it is called only when a heartbeat was
    /// requested, because it is called after every batch otherwise.
    pub fn beat(&self, summary: impl FnOnce() -> String) {
        if self.0.is_requested.load(Ordering::Acquire) {
            *self.0.summary.lock() = summary();
            // The flag goes last: whoever sees it cleared also sees the new summary.
            self.0.is_requested.store(false, Ordering::Release);
        }
    }

    fn request(&self) {
        self.0.is_requested.store(true, Ordering::Release);
    }

    /// The summary of the heartbeat that was requested last; none while it has not arrived.
    fn answer(&self) -> Option<String> {
        (!self.0.is_requested.load(Ordering::Acquire)).then(|| self.0.summary.lock().clone())
    }
}

/// The thread that reports to systemd.
pub struct SystemdReporter {
    thread: JoinHandle<()>,
    /// Shutting this socket down ends the thread.
    end: UnixStream,
}

impl SystemdReporter {
    /// Tells systemd that the replica is ready, and keeps reporting from a thread of its own. None when systemd did not ask for
    /// reports.
    ///
    /// # Errors
    /// The operating system refuses another thread, socket or signal handler.
    pub fn start(heartbeat: Heartbeat, waker: LoopWaker) -> io::Result<Option<SystemdReporter>> {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(None);
        }
        let reports = Reports::new(heartbeat, sd_notify::watchdog_enabled(), Instant::now());

        // A signal that stops the replica makes the socket readable; shutting it down ends it.
        let (stop, end) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(SIGTERM, end.try_clone()?)?;
        signal_hook::low_level::pipe::register(SIGINT, end.try_clone()?)?;
        stop.set_read_timeout(Some(reports.turn()))?;

        let run = move || reports.run(stop, &waker);
        let thread = std::thread::Builder::new().name("systemd".into()).spawn(run)?;
        Ok(Some(SystemdReporter { thread, end }))
    }

    /// Ends the thread.
    ///
    /// # Errors
    /// The socket cannot be shut down.
    pub fn end(self) -> io::Result<()> {
        self.end.shutdown(Shutdown::Both)?;
        self.thread.join().expect("a panic has ended the process");
        Ok(())
    }
}

/// What to report, and what was reported before.
struct Reports {
    heartbeat: Heartbeat,
    /// The time after which systemd ends a process that has not fed its watchdog; none when the unit has no `WatchdogSec=`.
    watchdog: Option<Duration>,
    /// When the watchdog was last fed.
    fed_at: Instant,
    /// The status text that systemd has.
    reported: String,
}

impl Reports {
    /// Requests the first heartbeat.
    fn new(heartbeat: Heartbeat, watchdog: Option<Duration>, now: Instant) -> Reports {
        heartbeat.request();
        Reports { heartbeat, watchdog, fed_at: now, reported: String::new() }
    }

    /// The time between two requests for a heartbeat.
    fn turn(&self) -> Duration {
        self.watchdog.map_or(TURN, |watchdog| TURN.min(watchdog / FEEDS))
    }

    /// Reports until the replica is asked to stop, or ends.
    fn run(mut self, mut stop: UnixStream, waker: &LoopWaker) {
        notify(&[NotifyState::Ready]);
        loop {
            waker.ask_for_reading();
            match stop.read(&mut [0]) {
                // The turn is over, or another signal interrupted it.
                Err(_) => notify(&self.next(Instant::now())),
                Ok(0) => return,
                Ok(_) => {
                    break notify(&[
                        NotifyState::Stopping,
                        NotifyState::Status("stopping, handing over to the others"),
                    ]);
                }
            }
        }
    }

    /// What to report on this turn: nothing without a heartbeat; else that the replica is alive, if the watchdog is due, and what
    /// it is doing, if that has changed.
    fn next(&mut self, now: Instant) -> Vec<NotifyState<'_>> {
        let Some(summary) = self.heartbeat.answer() else { return Vec::new() };
        self.heartbeat.request();

        let mut news = Vec::new();
        if self.watchdog.is_some_and(|watchdog| now.duration_since(self.fed_at) >= watchdog / FEEDS) {
            self.fed_at = now;
            news.push(NotifyState::Watchdog);
        }
        if summary != self.reported {
            self.reported = summary;
            news.push(NotifyState::Status(&self.reported));
        }
        news
    }
}

/// Sends systemd the reports, if there are any. That systemd cannot be reached is no reason to stop chatting.
fn notify(news: &[NotifyState<'_>]) {
    if !news.is_empty()
        && let Err(error) = sd_notify::notify(news)
    {
        log::warn!("cannot report to systemd: {error}; it may restart this replica when its watchdog runs out");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WATCHDOG: Duration = Duration::from_secs(8);

    /// What is reported so many seconds after the start.
    fn reported(reports: &mut Reports, start: Instant, seconds: u64) -> Vec<String> {
        reports.next(start + Duration::from_secs(seconds)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_watchdog_is_fed_only_after_a_heartbeat_and_the_status_reported_only_when_it_changes() {
        let (heartbeat, start) = (Heartbeat::default(), Instant::now());
        let mut reports = Reports::new(heartbeat.clone(), Some(WATCHDOG), start);
        assert_eq!(reported(&mut reports, start, 2), [""; 0], "there was no heartbeat");
        heartbeat.beat(|| "serving".into());
        assert_eq!(reported(&mut reports, start, 3), ["WATCHDOG=1", "STATUS=serving"]);
        assert_eq!(reported(&mut reports, start, 6), [""; 0], "a heartbeat counts once");
        heartbeat.beat(|| "serving".into());
        assert_eq!(reported(&mut reports, start, 7), ["WATCHDOG=1"]);
        heartbeat.beat(|| "stopping".into());
        heartbeat.beat(|| unreachable!("no second heartbeat was requested"));
        assert_eq!(reported(&mut reports, start, 8), ["STATUS=stopping"], "the watchdog was fed a second ago");
    }

    #[test]
    fn without_a_watchdog_only_the_status_is_reported() {
        let (heartbeat, start) = (Heartbeat::default(), Instant::now());
        let mut reports = Reports::new(heartbeat.clone(), None, start);
        heartbeat.beat(|| "serving".into());
        assert_eq!(reported(&mut reports, start, 100), ["STATUS=serving"]);
        assert_eq!((reports.turn(), Reports::new(heartbeat, Some(WATCHDOG / 4), start).turn()), (TURN, TURN / 2));
    }
}
