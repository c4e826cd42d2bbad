//! Frames: a length, then one CBOR item.
//!
//! The length is a big-endian `u32` and counts the bytes of the item. [`FrameBuffer`] collects bytes in whatever pieces they
//! arrive, and keeps three outcomes apart: more bytes are needed, a frame is complete, or the bytes can never become a frame.
//! After the last the connection has to be closed, because where the next frame begins is unknown.

use crate::wire::{append_cbor, from_cbor};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;

/// The most bytes of an item: 1 MiB. A sender splits longer content over several messages.
pub const FRAME_MAX: usize = 1024 * 1024;
/// The most bytes of an item from a client to a replica: 16 KiB. The longest is a message of 4,096 bytes with the rest of its
/// request, less than 5 KiB.
pub const CLIENT_FRAME_MAX: usize = 16 * 1024;
/// A buffer that has grown larger than this, 4 KiB, is given back as soon as it is empty.
const KEPT_MAX: usize = 4 * 1024;
/// The bytes of a frame before its item: the length.
const HEADER: usize = 4;

/// Why bytes can never become a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The item would have `length` bytes, and `limit` are allowed.
    #[allow(missing_docs)]
    TooLarge { length: usize, limit: usize },
    /// The item is not well-formed, or not a message that is expected. The text says how, for a person.
    Malformed(String),
}

impl fmt::Display for FrameError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::TooLarge { length, limit } => write!(formatter, "a frame of {length} bytes, more than {limit}"),
            FrameError::Malformed(detail) => write!(formatter, "a malformed frame: {detail}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// What [`FrameBuffer::decode`] finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<T> {
    /// A message, which is taken out of the buffer.
    Frame(T),
    /// The bytes so far are the beginning of a message.
    NeedMore,
}

/// Bytes that were received and are not yet decoded. When every frame is decoded after each push, it never holds more than one
/// incomplete frame and the bytes of one push.
#[derive(Debug)]
pub struct FrameBuffer {
    /// From `start` on, the bytes that are not yet decoded.
    bytes: Vec<u8>,
    /// Decoded bytes are dropped only when more are needed: dropping them after each frame would move the rest each time.
    start: usize,
    /// The most bytes of an item.
    limit: usize,
}

impl Default for FrameBuffer {
    fn default() -> Self {
        FrameBuffer::with_limit(FRAME_MAX)
    }
}

impl FrameBuffer {
    /// A buffer for items of at most `limit` bytes.
    pub fn with_limit(limit: usize) -> FrameBuffer {
        FrameBuffer { bytes: Vec::new(), start: 0, limit }
    }

    /// Changes the limit for all frames that are not yet decoded. A stranger gets a low one, until it has said hello.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether there are bytes that are not yet decoded.
    pub fn is_mid_frame(&self) -> bool {
        self.start < self.bytes.len()
    }

    /// Decodes the next message.
    ///
    /// # Errors
    /// The bytes can never become a message. Every further call returns the same error.
    pub fn decode<T: DeserializeOwned>(&mut self) -> Result<Decoded<T>, FrameError> {
        let rest = &self.bytes[self.start..];
        let Some((header, rest)) = rest.split_first_chunk::<HEADER>() else {
            self.compact();
            return Ok(Decoded::NeedMore);
        };
        let length = u32::from_be_bytes(*header) as usize;
        if length > self.limit {
            return Err(FrameError::TooLarge { length, limit: self.limit });
        }
        let Some(item) = rest.get(..length) else {
            self.compact();
            return Ok(Decoded::NeedMore);
        };
        let message = from_cbor(item).map_err(FrameError::Malformed)?;
        self.start += HEADER + length;
        Ok(Decoded::Frame(message))
    }

    /// How many bytes of memory it takes.
    pub fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// Drops decoded bytes. After a large frame the memory is given back: there may be a thousand connections, of which most never
    /// carry a second one.
    fn compact(&mut self) {
        self.bytes.drain(..self.start);
        self.start = 0;
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT_MAX {
            self.bytes = Vec::new();
        }
    }
}

/// Appends the frame of a message to `bytes`.
///
/// # Errors
/// The message is longer than [`FRAME_MAX`]; `bytes` is unchanged.
pub fn encode<T: Serialize>(message: &T, bytes: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = bytes.len();
    let item = start + size_of::<u32>();
    bytes.resize(item, 0);
    append_cbor(message, bytes);
    let length = bytes.len() - item;
    if length > FRAME_MAX {
        bytes.truncate(start);
        return Err(FrameError::TooLarge { length, limit: FRAME_MAX });
    }
    bytes[start..item].copy_from_slice(&u32::try_from(length).expect("the limit fits").to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(values: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        values.iter().for_each(|value| encode(value, &mut bytes).expect("short"));
        bytes
    }

    #[test]
    fn frames_come_out_whole_however_their_bytes_arrive() {
        let bytes = frames(&["one", "", &"three".repeat(1000)]);
        for chunk in [1, 2, 3, 5, 7, 1000, bytes.len()] {
            let mut buffer = FrameBuffer::default();
            let mut got: Vec<String> = Vec::new();
            for part in bytes.chunks(chunk) {
                buffer.push(part);
                while let Decoded::Frame(text) = buffer.decode().expect("good frames") {
                    got.push(text);
                }
            }
            assert_eq!(got, ["one", "", &"three".repeat(1000)], "in chunks of {chunk}");
            assert!(!buffer.is_mid_frame());
        }
    }

    #[test]
    fn half_a_frame_needs_more() {
        let bytes = frames(&["one"]);
        let mut buffer = FrameBuffer::default();
        assert_eq!(buffer.decode::<String>(), Ok(Decoded::NeedMore));
        for byte in &bytes[..bytes.len() - 1] {
            buffer.push(&[*byte]);
            assert_eq!(buffer.decode::<String>(), Ok(Decoded::NeedMore));
            assert!(buffer.is_mid_frame());
        }
        buffer.push(&bytes[bytes.len() - 1..]);
        assert_eq!(buffer.decode(), Ok(Decoded::Frame("one".to_string())));
    }

    #[test]
    fn an_oversized_frame_is_refused_by_its_header() {
        let mut buffer = FrameBuffer::default();
        buffer.push(&(FRAME_MAX as u32 + 1).to_be_bytes());
        let error = FrameError::TooLarge { length: FRAME_MAX + 1, limit: FRAME_MAX };
        assert_eq!(buffer.decode::<String>(), Err(error.clone()));
        assert_eq!(buffer.decode::<String>(), Err(error));
        assert!(encode(&"x".repeat(FRAME_MAX), &mut Vec::new()).is_err());
        assert!(encode(&"x".repeat(FRAME_MAX - 5), &mut Vec::new()).is_ok());
    }

    #[test]
    fn an_empty_buffer_takes_little_memory() {
        let mut buffer = FrameBuffer::default();
        buffer.push(&frames(&[&"x".repeat(100_000)]));
        assert!(buffer.memory() > 100_000);
        assert!(matches!(buffer.decode::<String>(), Ok(Decoded::Frame(_))));
        assert_eq!(buffer.decode::<String>(), Ok(Decoded::NeedMore));
        assert!(buffer.memory() <= KEPT_MAX);
    }

    #[test]
    fn a_malformed_item_stays_an_error() {
        for item in [&[][..], &[0xff], &[0x63, b'a'], &[0x61, b'a', 0x00], &[0x01], &[0x5f, 0x5f]] {
            let mut buffer = FrameBuffer::default();
            buffer.push(&(item.len() as u32).to_be_bytes());
            buffer.push(item);
            let first = buffer.decode::<String>();
            assert!(matches!(first, Err(FrameError::Malformed(_))), "{item:?} {first:?}");
            assert_eq!(buffer.decode::<String>(), first);
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let length = random.usize(0..64);
            let item: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
            let mut buffer = FrameBuffer::default();
            buffer.push(&(item.len() as u32).to_be_bytes());
            buffer.push(&item);
            drop(buffer.decode::<crate::message::ToReplica>());
            let mut buffer = FrameBuffer::default();
            buffer.push(&item);
            drop(buffer.decode::<crate::message::ToClient>());
        }
    }
}
