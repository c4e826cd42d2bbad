//! What the crate's tests share: connections, and waiting for a condition.

use crate::byte_stream::{ByteStream, ReadEnd};
use crate::tls::{Identity, TlsAcceptor, TlsDialer};
use rustls::{ClientConnection, Connection, StreamOwned};
use stablechat_authority::Authority;
use stablechat_protocol::name::{ClusterName, ReplicaName};
use std::net::{TcpListener, TcpStream};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Longer than any step takes on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(60);

/// The far end of a connection: a client, which blocks.
pub type Far = StreamOwned<ClientConnection, TcpStream>;

/// The authority of all these tests.
pub static AUTHORITY: LazyLock<Authority> =
    LazyLock::new(|| Authority::create(&ClusterName::parse("demo").expect("a name")).expect("random numbers"));

/// A new certificate for a replica.
pub fn identity(name: &str) -> Identity {
    let text = AUTHORITY.issue(&ReplicaName::parse(name).expect("a name")).expect("random numbers");
    Identity::from_pem(&text).expect("a certificate")
}

/// The near end of a connection that the replica `a` accepts.
pub fn accept() -> Connection {
    let acceptor = TlsAcceptor::new(AUTHORITY.certificate(), &identity("a")).expect("a good certificate");
    acceptor.accept().expect("random numbers")
}

/// The near end of a client's connection to the replica `a`.
pub fn dial() -> ClientConnection {
    as_client(TlsDialer::for_client(AUTHORITY.certificate()).expect("an authority").dial("a").expect("a name"))
}

/// The near end of a connection that was dialed.
pub fn as_client(tls: Connection) -> ClientConnection {
    match tls {
        Connection::Client(tls) => tls,
        Connection::Server(_) => unreachable!("the dialing side is the client"),
    }
}

/// A connected pair of sockets: the non-blocking one to be tested, and a blocking one.
pub fn socket_pair() -> (mio::net::TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (far, _) = listener.accept().expect("it has connected");
    near.set_nonblocking(true).expect("a socket");
    (mio::net::TcpStream::from_std(near), far)
}

/// The two ends of a connection whose handshake is done.
pub fn pair() -> (ByteStream, Far) {
    let (near, far) = ends(accept(), dial());
    (near, far.expect("a good handshake"))
}

/// The two ends of a connection whose handshake is done, or has failed.
pub fn ends(near: Connection, far: ClientConnection) -> (ByteStream, std::io::Result<Far>) {
    let (socket, far_socket) = socket_pair();
    let mut near = ByteStream::new(socket, near);
    let mut far = StreamOwned::new(far, far_socket);
    let handshake = std::thread::spawn(move || {
        while far.conn.is_handshaking() {
            far.conn.complete_io(&mut far.sock)?;
        }
        Ok(far)
    });
    let mut is_over = false;
    wait(|| {
        is_over = is_over || near.flush().is_err() || near.read(&mut [0; 4096], |_| {}).end.is_over();
        handshake.is_finished() && (is_over || !near.is_handshaking())
    });
    (near, handshake.join().expect("no panic"))
}

/// Reads until the end is one that is waited for.
pub fn read_until(stream: &mut ByteStream, mut take: impl FnMut(&[u8]), is_end: impl Fn(&ReadEnd) -> bool) -> ReadEnd {
    let mut end = ReadEnd::More;
    wait(|| {
        end = stream.read(&mut [0; 64], &mut take).end;
        is_end(&end)
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
