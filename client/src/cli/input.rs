//! Standard input that is not a terminal: a pipe or socket, a regular file, or nothing.
//!
//! Pipes are polled. Other processes may have the same pipe open, so it is not made non-blocking: after each
//! readiness event there is one read, and then the poll is armed again. Regular files and `/dev/null`, which epoll
//! refuses, are always ready.

use crate::cli::lines::{LineBuffer, LineError};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};

/// How many bytes are read at a time.
const CHUNK: usize = 16 * 1024;

/// Standard input.
pub struct Input {
    /// A descriptor of our own for it.
    file: File,
    /// How the poll tells of it; `None` when it is always ready.
    polled: Option<(Registry, Token)>,
    /// Whether a read will not block.
    is_ready: bool,
    /// Bytes that are not a line yet.
    lines: LineBuffer,
    /// Whether it is at its end.
    has_ended: bool,
}

impl Input {
    /// Standard input, under a token of a poll.
    ///
    /// # Errors
    /// It cannot be polled although it is of a kind that can.
    pub fn open(registry: Registry, token: Token) -> io::Result<Input> {
        let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let polled = match registry.register(&mut SourceFd(&file.as_raw_fd()), token, Interest::READABLE) {
            Ok(()) => Some((registry, token)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            Err(error) => return Err(error),
        };
        let is_ready = polled.is_none();
        Ok(Input { file, polled, is_ready, lines: LineBuffer::default(), has_ended: false })
    }

    /// The poll says that it is ready.
    pub fn on_ready(&mut self) {
        self.is_ready = true;
    }

    /// Whether [`Input::read`] will not block.
    pub fn is_ready(&self) -> bool {
        self.is_ready && !self.has_ended
    }

    /// Reads once, and gives the lines to `each`. Returns whether the end is reached.
    ///
    /// # Errors
    /// It cannot be read, and ends here.
    pub fn read(&mut self, mut each: impl FnMut(Result<String, LineError>)) -> io::Result<bool> {
        let mut chunk = [0; CHUNK];
        let length = match self.file.read(&mut chunk) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                self.arm()?;
                return Ok(false);
            }
            Err(error) => {
                self.has_ended = true;
                return Err(error);
            }
        };
        if length == 0 {
            self.has_ended = true;
            self.lines.finish().into_iter().for_each(each);
            if let Some((registry, _)) = &self.polled {
                registry.deregister(&mut SourceFd(&self.file.as_raw_fd()))?;
            }
            return Ok(true);
        }
        self.lines.push(&chunk[..length], &mut each);
        self.arm()?;
        Ok(false)
    }

    /// Has the poll tell again when there is something to read, also when there is already.
    fn arm(&mut self) -> io::Result<()> {
        if let Some((registry, token)) = &self.polled {
            self.is_ready = false;
            registry.reregister(&mut SourceFd(&self.file.as_raw_fd()), *token, Interest::READABLE)?;
        }
        Ok(())
    }
}
