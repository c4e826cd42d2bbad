//! etcd: three members. A client puts keys at the leader over gRPC, with many requests at a time on one connection of HTTP/2.
//!
//! Of HTTP/2 there is only as much here as this needs: each request is a stream of two frames, and is answered by frames of which
//! the last ends the stream. Headers are sent without compression, and those of answers are not read: what was not refused has a
//! body.

use super::{Dialect, Peer, refused};
use crate::outages::etcd::{Etcd as Members, version};
use crate::outages::nodes::Foreign;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

/// etcd, in the version that is installed.
pub struct Etcd {
    leader: SocketAddr,
    /// Held until the end.
    _members: Foreign<Members>,
}

impl Etcd {
    /// Starts three members.
    ///
    /// # Errors
    /// It is not installed.
    pub fn start() -> Result<Etcd, String> {
        let members = Members::start()?;
        Ok(Etcd { leader: members.leader_address(), _members: members })
    }
}

impl Peer for Etcd {
    fn name(&self) -> String {
        format!("etcd {}", version())
    }

    fn address(&self) -> SocketAddr {
        self.leader
    }

    fn window(&self) -> usize {
        usize::MAX
    }

    fn dialect(&self, number: usize) -> Box<dyn Dialect> {
        Box::new(EtcdDialect { number, next: 1, streams: BTreeMap::new() })
    }
}

/// What a client of HTTP/2 says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How many bytes more than the usual 64 KiB the server may send on the connection: more than all answers take.
const WINDOW: u32 = 1 << 30;
/// The length of the head of a frame.
const HEAD: usize = 9;

/// Types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// Flags of frames.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

struct EtcdDialect {
    /// The number of the connection, so that keys differ.
    number: usize,
    /// The number of the next stream.
    next: u32,
    /// The requests without an answer by their streams, and whether the body of the answer has come.
    streams: BTreeMap<u32, (u64, bool)>,
}

impl Dialect for EtcdDialect {
    fn greeting(&self) -> Vec<u8> {
        let mut outgoing = PREFACE.to_vec();
        frame(SETTINGS, 0, 0, &[], &mut outgoing);
        frame(WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes(), &mut outgoing);
        outgoing
    }

    fn request(&mut self, number: u64, text: &str, outgoing: &mut Vec<u8>) {
        let stream = self.next;
        self.next += 2;
        self.streams.insert(stream, (number, false));
        frame(HEADERS, END_HEADERS, stream, &headers(), outgoing);

        let mut put = Vec::new();
        field(1, format!("{}:{number}", self.number).as_bytes(), &mut put);
        field(2, text.as_bytes(), &mut put);
        // Not compressed, and its length.
        let body = [&[0][..], &(put.len() as u32).to_be_bytes(), &put].concat();
        frame(DATA, END_STREAM, stream, &body, outgoing);
    }

    fn take(&mut self, incoming: &[u8], outgoing: &mut Vec<u8>, answered: &mut Vec<u64>) -> io::Result<usize> {
        let mut taken = 0;
        while let Some((head, rest)) = incoming[taken..].split_at_checked(HEAD) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & (u32::MAX >> 1);
            let Some(content) = rest.get(..length) else { break };
            match kind {
                SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[], outgoing),
                PING if flags & ACK == 0 => frame(PING, ACK, 0, content, outgoing),
                DATA | HEADERS => self.on_answer(kind, flags, stream, answered)?,
                RST_STREAM | GOAWAY => return Err(refused(content)),
                _ => {}
            }
            taken += HEAD + length;
        }
        Ok(taken)
    }
}

impl EtcdDialect {
    /// A frame of an answer has come.
    fn on_answer(&mut self, kind: u8, flags: u8, stream: u32, answered: &mut Vec<u64>) -> io::Result<()> {
        let Some((number, has_body)) = self.streams.get_mut(&stream) else { return Ok(()) };
        *has_body |= kind == DATA;
        if flags & END_STREAM == 0 {
            return Ok(());
        }
        if !*has_body {
            return Err(refused(b"without a body"));
        }
        answered.push(*number);
        self.streams.remove(&stream);
        Ok(())
    }
}

/// Appends a frame.
fn frame(kind: u8, flags: u8, stream: u32, content: &[u8], outgoing: &mut Vec<u8>) {
    outgoing.extend(&(content.len() as u32).to_be_bytes()[1..]);
    outgoing.extend([kind, flags]);
    outgoing.extend(stream.to_be_bytes());
    outgoing.extend(content);
}

/// The headers of a put. Numbers are places in the table of usual headers of HPACK (RFC 7541).
fn headers() -> Vec<u8> {
    // The method POST, the scheme http.
    let mut headers = vec![0x83, 0x86];
    // The path, the authority, the type of the content, each with its number and a text; `te` has no number.
    for (name, text) in [
        (&[0x04][..], "/etcdserverpb.KV/Put"),
        (&[0x01], "etcd"),
        (&[0x0f, 0x10], "application/grpc"),
        (b"\x00\x02te", "trailers"),
    ] {
        headers.extend(name);
        headers.push(text.len() as u8);
        headers.extend(text.as_bytes());
    }
    headers
}

/// Appends a field of bytes of a protobuf message.
fn field(number: u8, bytes: &[u8], message: &mut Vec<u8>) {
    message.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        message.push(length as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_its_stream_and_settings_are_acknowledged() {
        let mut dialect = EtcdDialect { number: 3, next: 1, streams: BTreeMap::new() };
        let (mut outgoing, mut answered) = (Vec::new(), Vec::new());
        dialect.request(7, "hello", &mut outgoing);
        dialect.request(8, &"x".repeat(200), &mut outgoing);
        assert!(outgoing.ends_with(b"x") && outgoing.windows(5).any(|part| part == b"hello"));

        let (mut incoming, mut outgoing) = (Vec::new(), Vec::new());
        frame(SETTINGS, 0, 0, &[0; 6], &mut incoming);
        for stream in [3, 1] {
            frame(HEADERS, END_HEADERS, stream, b"compressed", &mut incoming);
            frame(DATA, 0, stream, b"body", &mut incoming);
            frame(HEADERS, END_HEADERS | END_STREAM, stream, b"compressed", &mut incoming);
        }
        let mut take = |incoming: &[u8]| dialect.take(incoming, &mut outgoing, &mut answered);
        let last = incoming.len() - HEAD - b"compressed".len();
        assert_eq!(take(&incoming[..incoming.len() - 1]).ok(), Some(last), "the last frame is not whole");
        assert_eq!(take(&incoming[last..]).ok(), Some(incoming.len() - last));
        assert_eq!((answered, &outgoing[..]), (vec![8, 7], &[0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0][..]));
    }

    #[test]
    fn an_answer_without_a_body_is_a_refusal() {
        let mut dialect = EtcdDialect { number: 3, next: 1, streams: BTreeMap::new() };
        dialect.request(7, "hello", &mut Vec::new());
        let mut incoming = Vec::new();
        frame(HEADERS, END_HEADERS | END_STREAM, 1, b"compressed", &mut incoming);
        assert!(dialect.take(&incoming, &mut Vec::new(), &mut Vec::new()).is_err());
    }

    #[test]
    fn lengths_of_fields_take_as_many_bytes_as_they_need() {
        let mut message = Vec::new();
        field(2, &[b'x'; 300], &mut message);
        assert_eq!(message[..3], [0x12, 0xac, 0x02]);
    }
}
