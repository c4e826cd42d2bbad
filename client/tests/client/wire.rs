//! A fake replica's end of a connection: it blocks, and several threads may write to it.

use rustls::Connection;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

/// A connection that was accepted. Clones are the same connection.
#[derive(Clone)]
pub struct Wire(Arc<Ends>);

struct Ends {
    socket: TcpStream,
    tls: Mutex<Connection>,
}

impl Wire {
    pub fn new(socket: TcpStream, tls: Connection) -> Wire {
        Wire(Arc::new(Ends { socket, tls: Mutex::new(tls) }))
    }

    /// The client's address; none once the connection is broken.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.0.socket.peer_addr().ok()
    }

    /// What identifies the connection to both of its ends.
    pub fn channel(&self) -> [u8; 32] {
        let binding = self.tls().export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(&[]));
        binding.expect("the handshake is done")
    }

    /// Waits for bytes; none when the client has ended the connection.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn read(&self) -> io::Result<Option<Vec<u8>>> {
        let mut chunk = [0; 64 * 1024];
        loop {
            let length = (&self.0.socket).read(&mut chunk)?;
            if length == 0 {
                return Ok(None);
            }
            let (mut raw, mut tls, mut bytes) = (&chunk[..length], self.tls(), Vec::new());
            while !raw.is_empty() {
                let taken = tls.read_tls(&mut raw)?;
                let state = tls.process_new_packets().map_err(io::Error::other)?;
                let mut piece = vec![0; state.plaintext_bytes_to_read()];
                tls.reader().read_exact(&mut piece)?;
                bytes.extend(piece);
                if taken == 0 {
                    return Ok(None);
                }
            }
            self.flush(&mut tls)?;
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
    }

    /// Writes all of these bytes.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut tls = self.tls();
        for piece in bytes.chunks(16 * 1024) {
            tls.writer().write_all(piece)?;
            self.flush(&mut tls)?;
        }
        Ok(())
    }

    /// Says that nothing more comes.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn finish(&self) -> io::Result<()> {
        let mut tls = self.tls();
        tls.send_close_notify();
        self.flush(&mut tls)?;
        self.0.socket.shutdown(Shutdown::Write)
    }

    /// Cuts the connection off, as the end of a process does.
    ///
    /// # Errors
    /// The connection is broken already.
    pub fn cut(&self) -> io::Result<()> {
        self.0.socket.shutdown(Shutdown::Both)
    }

    fn flush(&self, tls: &mut Connection) -> io::Result<()> {
        while tls.wants_write() {
            tls.write_tls(&mut &self.0.socket)?;
        }
        Ok(())
    }

    fn tls(&self) -> MutexGuard<'_, Connection> {
        self.0.tls.lock().expect("no thread of a replica has panicked")
    }
}
