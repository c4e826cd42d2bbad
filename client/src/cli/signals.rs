//! Makes SIGTERM and SIGINT readable on a stream, so that a poll can wait for them.

use mio::net::UnixStream;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, Read};

pub struct Signals {
    /// Has one byte per signal.
    stream: UnixStream,
}

impl Signals {
    /// Installs handlers of SIGTERM and SIGINT for the rest of the process's life.
    ///
    /// # Errors
    /// The operating system refuses a socket or a handler.
    pub fn catch() -> io::Result<Signals> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGTERM, theirs.try_clone()?)?;
        signal_hook::low_level::pipe::register(SIGINT, theirs)?;
        Ok(Signals { stream: UnixStream::from_std(ours) })
    }

    pub fn source(&mut self) -> &mut UnixStream {
        &mut self.stream
    }

    /// How many signals have come since the last call, at most 64. The first asks for an orderly end, a second for one at once.
    pub fn take(&mut self) -> usize {
        self.stream.read(&mut [0; 64]).unwrap_or(0)
    }
}
