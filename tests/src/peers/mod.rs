//! Load on other replicated systems, to compare ours with: each stores texts of the same length on three nodes, and a text counts when
//! as many of them as it promises have it.
//!
//! | module | system | what an answer promises |
//! |---|---|---|
//! | [`redis`] | Redis, a master and two replicas, append-only files with `appendfsync always`, `WAIT 2` | all three have synced it |
//! | [`etcd`] | etcd, three members | two have synced it |
//! | [`nats`] | NATS JetStream, three servers, a stream with three replicas | two have it, in memory |
//!
//! [`load`] drives all of them alike. A [`Dialect`] is what one connection says and hears; it has no socket.

pub mod etcd;
pub mod load;
pub mod nats;
pub mod redis;
pub mod stablechat;

use std::io;
use std::net::SocketAddr;

/// What a connection says and hears.
pub trait Dialect {
    /// The bytes that a connection begins with.
    fn greeting(&self) -> Vec<u8>;

    /// Appends the request with this number, which stores a text, to the bytes that are to be sent.
    fn request(&mut self, number: u64, text: &str, outgoing: &mut Vec<u8>);

    /// Takes what has come, as far as it is whole, and returns how many bytes that is. Adds the numbers of the requests that are answered
    /// to `answered`, and what has to be said in return to `outgoing`.
    ///
    /// # Errors
    /// A request was refused, or what has come is no answer.
    fn take(&mut self, incoming: &[u8], outgoing: &mut Vec<u8>, answered: &mut Vec<u64>) -> io::Result<usize>;
}

/// A system whose nodes run.
pub trait Peer {
    /// Its name and version, and the settings that count.
    fn name(&self) -> String;

    /// The node that is called.
    fn address(&self) -> SocketAddr;

    /// How many requests a connection can have in flight.
    fn window(&self) -> usize;

    /// A new connection's dialect; connections have different numbers.
    fn dialect(&self, number: usize) -> Box<dyn Dialect>;
}

/// The first line of what has come, without its end, and its length with it; none if it is not whole.
fn first_line(incoming: &[u8]) -> Option<(&[u8], usize)> {
    let end = incoming.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&incoming[..end], end + 2))
}

/// That a peer has refused a request, or said something else than an answer.
fn refused(what: &[u8]) -> io::Error {
    io::Error::other(format!("the answer is {}", String::from_utf8_lossy(what)))
}
