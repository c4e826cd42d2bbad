//! What the tests of this module share: an authority, certificates, and the far ends of connections.

use super::ReplicaTls;
use super::greeting::Channel;
use rustls::Connection;
use stablechat_authority::Authority;
use stablechat_protocol::login::ChannelBinding;
use stablechat_protocol::name::{ClusterName, ReplicaName};
use stablechat_transport::{Identity, TlsAcceptor, TlsDialer};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::LazyLock;

/// The authority of all clusters of these tests.
static AUTHORITY: LazyLock<Authority> =
    LazyLock::new(|| Authority::create(&ClusterName::parse("demo").expect("a name")).expect("random numbers"));

/// A new certificate for a replica, with its private key.
fn issue(name: &str) -> String {
    AUTHORITY.issue(&ReplicaName::parse(name).expect("a name")).expect("random numbers")
}

fn identity(name: &str) -> Identity {
    Identity::from_pem(&issue(name)).expect("a certificate")
}

/// What a replica makes the near ends of its connections with.
pub fn replica_tls(name: &str) -> ReplicaTls {
    ReplicaTls::new(AUTHORITY.certificate(), &issue(name)).expect("a good certificate")
}

/// A channel whose other side is a certified replica, or is not.
pub struct FakeChannel {
    pub is_certified: bool,
}

impl FakeChannel {
    /// What identifies each of these.
    pub const BINDING: ChannelBinding = ChannelBinding([5; 32]);
}

impl Channel for FakeChannel {
    fn binding(&self) -> Option<ChannelBinding> {
        Some(FakeChannel::BINDING)
    }

    fn is_certified_as(&self, _name: &ReplicaName) -> bool {
        self.is_certified
    }
}

/// The far end of a connection, which blocks.
pub struct FarEnd {
    pub socket: TcpStream,
    tls: Connection,
}

impl FarEnd {
    /// Dials the replica of this name as that of another name.
    pub fn dial(socket: TcpStream, replica: &str, as_replica: &str) -> FarEnd {
        let dialer =
            TlsDialer::for_replica(AUTHORITY.certificate(), &identity(as_replica)).expect("a good certificate");
        FarEnd { socket, tls: dialer.dial(replica).expect("a name") }
    }

    /// Accepts a connection as the replica of this name.
    pub fn accept(socket: TcpStream, as_replica: &str) -> FarEnd {
        let acceptor = TlsAcceptor::new(AUTHORITY.certificate(), &identity(as_replica)).expect("a good certificate");
        FarEnd { socket, tls: acceptor.accept().expect("random numbers") }
    }

    /// Completes the handshake.
    pub fn shake_hands(&mut self) -> io::Result<()> {
        while self.tls.is_handshaking() {
            self.tls.complete_io(&mut self.socket)?;
        }
        // What the handshake leaves to be said.
        self.flush()
    }

    /// Writes all of these bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.shake_hands()?;
        for piece in bytes.chunks(16 * 1024) {
            self.tls.writer().write_all(piece)?;
            self.flush()?;
        }
        Ok(())
    }

    /// Waits for bytes; none at the end of the connection.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        self.shake_hands()?;
        loop {
            let mut bytes = [0; 4096];
            match self.tls.reader().read(&mut bytes) {
                Ok(length) => return Ok(bytes[..length].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Vec::new()),
                Err(error) => return Err(error),
            }
            self.tls.read_tls(&mut self.socket)?;
            self.tls.process_new_packets().map_err(io::Error::other)?;
            self.flush()?;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}
