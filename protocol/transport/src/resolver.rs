//! Looking up host names without waiting for it.

use crossbeam_channel::{Receiver, Sender};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

/// A lookup that is done: its number, which is that of the [`crate::Dial`] that wants it, and the addresses.
pub type Resolved = (usize, io::Result<Vec<SocketAddr>>);

/// Looks up host names, each in a thread of its own, because a lookup can block for as long as the name servers please.
pub struct Resolver {
    report: Sender<Resolved>,
    done: Receiver<Resolved>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl Resolver {
    /// A resolver for at most `dials` lookups at a time. `wake` ends the caller's poll when a lookup is done.
    pub fn new(dials: usize, wake: impl Fn() + Send + Sync + 'static) -> Resolver {
        // A dial has at most one lookup under way, so no thread ever waits for room in the channel.
        let (report, done) = crossbeam_channel::bounded(dials);
        Resolver { report, done, wake: Arc::new(wake) }
    }

    /// The lookups that are done since the last call. Pass each to [`crate::Dial::on_resolved`].
    pub fn done(&self) -> impl Iterator<Item = Resolved> {
        self.done.try_iter()
    }

    /// Begins to look up `HOST:PORT` for the dial of this number, which has no lookup under way.
    ///
    /// # Errors
    /// The operating system has no room for a thread.
    pub fn resolve(&self, dial: usize, address: &str) -> io::Result<()> {
        let (address, report, wake) = (address.to_string(), self.report.clone(), Arc::clone(&self.wake));
        let thread = std::thread::Builder::new().name("resolver".into());
        thread.spawn(move || {
            let addresses = address.to_socket_addrs().map(Iterator::collect);
            if report.send((dial, addresses)).is_ok() {
                wake();
            }
        })?;
        Ok(())
    }
}
