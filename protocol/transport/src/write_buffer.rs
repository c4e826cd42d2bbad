//! Plaintext that waits until the socket has taken everything before it, and is encrypted then.

use std::collections::VecDeque;

/// Messages are gathered in chunks of about this many bytes, 16 KiB, so that one record, and one system call, has many short
/// messages.
const CHUNK: usize = 16 * 1024;

/// Messages in the order in which they are to be written. A chunk holds whole messages.
#[derive(Debug, Default)]
pub struct WriteBuffer {
    chunks: VecDeque<Vec<u8>>,
    /// How many bytes of the first chunk are taken. Less than its length.
    taken: usize,
    /// How many bytes are still to be taken, over all chunks.
    len: usize,
}

impl WriteBuffer {
    /// How many bytes are still to be taken.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Appends a whole message.
    pub fn push(&mut self, message: &[u8]) {
        if message.is_empty() {
            return;
        }

        self.len += message.len();
        match self.chunks.back_mut() {
            Some(last) if last.len() + message.len() <= CHUNK => last.extend_from_slice(message),
            _ => self.chunks.push_back(message.to_vec()),
        }
    }

    /// The bytes to be taken next; none when everything is taken.
    pub fn front(&self) -> Option<&[u8]> {
        self.chunks.front().map(|first| &first[self.taken..])
    }

    /// Notes that the first `count` bytes of [`WriteBuffer::front`] are taken.
    pub fn advance(&mut self, count: usize) {
        self.taken += count;
        self.len -= count;
        if self.chunks.front().is_some_and(|first| first.len() == self.taken) {
            self.chunks.pop_front();
            self.taken = 0;
        }
    }

    /// Drops all messages but those of a chunk that is partly taken: the other side must not see half a message.
    pub fn drop_unwritten(&mut self) {
        self.chunks.truncate(usize::from(self.taken > 0));
        self.len = self.front().map_or(0, <[u8]>::len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_messages_share_a_chunk_and_long_ones_have_their_own() {
        let mut buffer = WriteBuffer::default();
        buffer.push(b"one");
        buffer.push(b"");
        buffer.push(b"two");
        buffer.push(&vec![0; CHUNK]);
        assert_eq!((buffer.front(), buffer.len()), (Some(&b"onetwo"[..]), 6 + CHUNK));

        buffer.advance(4);
        assert_eq!(buffer.front(), Some(&b"wo"[..]));
        buffer.advance(2);
        assert_eq!(buffer.front().map(<[u8]>::len), Some(CHUNK));
        buffer.advance(CHUNK);
        assert_eq!((buffer.front(), buffer.len()), (None, 0));
    }

    #[test]
    fn a_message_that_has_begun_is_kept() {
        let mut buffer = WriteBuffer::default();
        buffer.push(&vec![1; CHUNK]);
        buffer.push(&vec![2; CHUNK]);
        buffer.advance(1);
        buffer.drop_unwritten();
        assert_eq!(buffer.len(), CHUNK - 1);

        buffer.advance(CHUNK - 1);
        buffer.push(b"whole");
        buffer.drop_unwritten();
        assert_eq!((buffer.front(), buffer.len()), (None, 0));
    }
}
