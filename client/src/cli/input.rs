//! Standard input that is not a terminal: a pipe or socket, a regular file, or `/dev/null`.
//!
//! Pipes are polled. A pipe is not made non-blocking, because that would change it for other processes that have it open.
//! Instead there is one read per readiness event, which cannot block, and then the poll is armed again. Regular files and
//! `/dev/null` are always ready; epoll refuses them.

use crate::cli::lines::{LineBuffer, LineError};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};

/// How many bytes are read at a time.
const CHUNK: usize = 16 * 1024;

pub struct Input {
    /// A duplicate of the descriptor, so that dropping it leaves standard input open.
    file: File,
    /// Where the poll reports readiness; `None` for input that is always ready.
    polled: Option<(Registry, Token)>,
    /// Whether a read will not block.
    is_ready: bool,
    lines: LineBuffer,
    /// Whether the end was reached, or a read failed.
    has_ended: bool,
}

impl Input {
    /// Registers standard input with a poll.
    ///
    /// # Errors
    /// Registration fails for another reason than that this kind of file cannot be polled.
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

    /// The poll reports that the next read will not block.
    pub fn on_ready(&mut self) {
        self.is_ready = true;
    }

    /// Whether [`Input::read`] will not block.
    pub fn is_ready(&self) -> bool {
        self.is_ready && !self.has_ended
    }

    /// Reads once, and passes the lines to `each`. Returns whether the end is reached.
    ///
    /// # Errors
    /// The read fails. There are no more lines then.
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

    /// Has the poll report readiness once more. Registering again makes it report bytes that have already arrived, too.
    fn arm(&mut self) -> io::Result<()> {
        if let Some((registry, token)) = &self.polled {
            self.is_ready = false;
            registry.reregister(&mut SourceFd(&self.file.as_raw_fd()), *token, Interest::READABLE)?;
        }
        Ok(())
    }
}
