//! What the crate's tests share: connected sockets, and waiting for a condition.

use crate::byte_stream::{ByteStream, ReadEnd};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Longer than any step takes on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(60);

/// A connected pair of sockets: the non-blocking one to be tested, and a blocking one.
pub fn socket_pair() -> (mio::net::TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (far, _) = listener.accept().expect("it has connected");
    near.set_nonblocking(true).expect("a socket");
    (mio::net::TcpStream::from_std(near), far)
}

/// The same, with the first as a stream of bytes.
pub fn pair() -> (ByteStream, TcpStream) {
    let (near, far) = socket_pair();
    (ByteStream::new(near), far)
}

/// Reads until the end is one that is waited for.
pub fn read_until(stream: &mut ByteStream, mut take: impl FnMut(&[u8]), is_end: impl Fn(ReadEnd) -> bool) -> ReadEnd {
    let mut end = ReadEnd::More;
    wait(|| {
        end = stream.read(&mut [0; 64], &mut take).end;
        is_end(end)
    });
    end
}

/// Waits for a condition.
pub fn wait(mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < LIMIT, "the condition did not hold within {LIMIT:?}");
        std::thread::yield_now();
    }
}
