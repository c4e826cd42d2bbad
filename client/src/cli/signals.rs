//! SIGTERM and SIGINT as something to be polled.

use mio::net::UnixStream;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, Read};

/// A stream that becomes readable at a signal.
pub struct Signals {
    /// The end to be polled.
    stream: UnixStream,
}

impl Signals {
    /// Catches SIGTERM and SIGINT from here on.
    ///
    /// # Errors
    /// The system refuses a socket or a handler.
    pub fn catch() -> io::Result<Signals> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGTERM, theirs.try_clone()?)?;
        signal_hook::low_level::pipe::register(SIGINT, theirs)?;
        Ok(Signals { stream: UnixStream::from_std(ours) })
    }

    /// The stream to poll.
    pub fn source(&mut self) -> &mut UnixStream {
        &mut self.stream
    }

    /// How many signals came, for a person who insists.
    pub fn take(&mut self) -> usize {
        self.stream.read(&mut [0; 64]).unwrap_or(0)
    }
}
