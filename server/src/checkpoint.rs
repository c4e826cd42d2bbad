//! Checkpoints: a running replica lends a backup a consistent copy of its database.
//!
//! Only the process that has a database open can say which of its files belong together. But that process may not be allowed to
//! write where the backup goes, and a backup must neither slow it down nor endanger it. So the replica does the least: it makes
//! a *checkpoint* beside the database (hard links to the sorted files, and a few small files), and the process that makes the
//! backup reads that for as long as it likes. The replica deletes the checkpoint when the connection ends, even if the backup
//! was killed.
//!
//! The socket is in the data directory, so only the replica's user and root can connect: those who can read the data anyway.

use crate::store::{DataDirectory, StoreError, copy_database};
use parking_lot::Mutex;
use rocksdb::DB;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The line by which a replica says that the checkpoint is there. Any other line says why there is none.
const READY: &str = "ready";
/// How long to wait after a connection could not be accepted. The usual cause is too many open files, which takes time to pass.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Serves checkpoints of a database from a thread of its own, until it is dropped.
pub struct CheckpointServer {
    directory: DataDirectory,
    /// None once the replica stops. Locked while a checkpoint is made or deleted.
    db: Arc<Mutex<Option<Arc<DB>>>>,
}

impl CheckpointServer {
    /// Starts serving. This process must have locked the data directory.
    ///
    /// # Errors
    /// The operating system refuses the socket, the thread, or to delete a checkpoint that a killed process left.
    pub fn start(directory: DataDirectory, db: Arc<DB>) -> io::Result<CheckpointServer> {
        // While a backup runs, the checkpoint is not left over: the backup still reads it.
        if directory.lock_for_backup().map_err(io::Error::other)?.is_some() {
            directory.remove_copy()?;
        }

        let listener = listen(&directory)?;
        let db = Arc::new(Mutex::new(Some(db)));
        let server = CheckpointServer { directory: directory.clone(), db: Arc::clone(&db) };
        std::thread::Builder::new().name("checkpoints".into()).spawn(move || serve(&listener, &directory, &db))?;
        Ok(server)
    }
}

impl Drop for CheckpointServer {
    fn drop(&mut self) {
        // The thread must not keep the database open after the lock on its directory is gone.
        *self.db.lock() = None;

        // The thread waits for a connection: one more lets it see that it has to end.
        let closed = connect(&self.directory).and_then(|_| std::fs::remove_file(self.directory.control()));
        if let Err(error) = closed {
            log::warn!("cannot close the socket for backups {}: {error}", self.directory.control().display());
        }
    }
}

/// A checkpoint of a running replica's database. Dropping it lets the replica delete it.
pub struct Checkpoint {
    directory: DataDirectory,
    _connection: UnixStream,
}

/// Why a replica lent no checkpoint.
#[derive(Debug)]
pub enum CheckpointError {
    /// The replica does not answer on this socket.
    Unreachable(PathBuf, io::Error),
    /// The replica could not make a checkpoint, for this reason.
    Failed(String),
}

impl fmt::Display for CheckpointError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckpointError::Unreachable(socket, error) => write!(
                formatter,
                "the data directory is in use, but no replica answers at {}: {error}; the replica may be starting or stopping, \
                 so try again in a few seconds",
                socket.display()
            ),
            CheckpointError::Failed(why) => {
                write!(formatter, "the replica cannot make a checkpoint of its data: {why}")
            }
        }
    }
}

impl std::error::Error for CheckpointError {}

impl Checkpoint {
    /// Asks the replica that uses this data directory for a checkpoint.
    ///
    /// # Errors
    /// The replica does not answer, or cannot make one.
    pub fn request(directory: DataDirectory) -> Result<Checkpoint, CheckpointError> {
        let unreachable = |error| CheckpointError::Unreachable(directory.control(), error);
        let connection = connect(&directory).map_err(unreachable)?;
        let mut reply = String::new();
        BufReader::new(&connection).read_line(&mut reply).map_err(unreachable)?;
        match reply.trim_end() {
            READY => Ok(Checkpoint { directory, _connection: connection }),
            "" => Err(unreachable(io::ErrorKind::UnexpectedEof.into())),
            why => Err(CheckpointError::Failed(why.to_string())),
        }
    }

    /// The directory of the checkpoint: a database of its own.
    pub fn path(&self) -> PathBuf {
        self.directory.copy()
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        // The replica deletes it when the connection ends, unless it has died meanwhile.
        if let Err(error) = self.directory.remove_copy() {
            log::warn!(
                "cannot delete the checkpoint {}: {error}; the replica deletes it when it is started again",
                self.directory.copy().display()
            );
        }
    }
}

/// Listens on the socket in a data directory. A socket that is there already is from a process that has ended.
fn listen(directory: &DataDirectory) -> io::Result<UnixListener> {
    match std::fs::remove_file(directory.control()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    by_short_path(directory, UnixListener::bind)
}

/// Connects to the socket in a data directory.
fn connect(directory: &DataDirectory) -> io::Result<UnixStream> {
    by_short_path(directory, UnixStream::connect)
}

/// Uses the socket by a path that is short however long the directory's is: the address of a Unix socket has at most 108 bytes.
fn by_short_path<T>(directory: &DataDirectory, use_it: impl FnOnce(PathBuf) -> io::Result<T>) -> io::Result<T> {
    let open = File::open(&directory.0)?;
    use_it(PathBuf::from(format!("/proc/self/fd/{}/control", open.as_raw_fd())))
}

/// Serves one connection after the other until the replica stops.
fn serve(listener: &UnixListener, directory: &DataDirectory, db: &Mutex<Option<Arc<DB>>>) {
    for connection in listener.incoming() {
        if db.lock().is_none() {
            return;
        }
        let served = connection.and_then(|connection| serve_connection(connection, directory, db));
        if let Err(error) = served {
            log::warn!("a backup could not be given a checkpoint of the data, or the checkpoint not deleted: {error}");
            std::thread::sleep(RETRY_DELAY);
        }
    }
}

/// Makes a checkpoint, lends it for as long as the connection lasts, and deletes it.
fn serve_connection(connection: UnixStream, directory: &DataDirectory, db: &Mutex<Option<Arc<DB>>>) -> io::Result<()> {
    let reply = match make(directory, db) {
        Ok(()) => READY.to_string(),
        Err(why) => why.replace('\n', " "),
    };
    let lent = lend(connection, &reply);

    // If the replica has stopped meanwhile, or opened its store anew, another thread or process may own the checkpoint now.
    let db = db.lock();
    if db.is_some() {
        directory.remove_copy()?;
    }
    lent
}

/// Sends the reply, and waits until the other side closes the connection.
fn lend(mut connection: UnixStream, reply: &str) -> io::Result<()> {
    match writeln!(connection, "{reply}") {
        // The process that asked has died meanwhile.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        written => written?,
    }
    // The other side sends nothing, so this returns when the connection ends.
    match connection.read_to_end(&mut Vec::new()) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
        _ => Ok(()),
    }
}

/// Makes a checkpoint in place of one that may be left over. The error says why there is none.
fn make(directory: &DataDirectory, db: &Mutex<Option<Arc<DB>>>) -> Result<(), String> {
    let db = db.lock();
    let db = db.as_ref().ok_or("the replica is stopping")?;
    directory.remove_copy().map_err(|error| format!("an earlier checkpoint cannot be deleted: {error}"))?;
    copy_database(db, &directory.copy()).map_err(|error: StoreError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{ChatStore, Location, schema::StoreIdentity};
    use stablechat_protocol::operator::InitialSettings;

    /// A store in a directory whose name is longer than the address of a socket may be.
    fn store(directory: &DataDirectory) -> ChatStore {
        let identity = StoreIdentity { cluster: "test".into(), replica: "one".into() };
        ChatStore::open(&Location::Directory(directory.0.clone()), &identity, &InitialSettings::OPEN).expect("a store")
    }

    #[test]
    fn a_checkpoint_exists_while_it_is_lent() {
        let temporary = tempfile::tempdir().expect("a directory can be made");
        let directory = DataDirectory(temporary.path().join("long".repeat(40)));
        let store = store(&directory);
        // A killed process left its socket and its checkpoint.
        std::fs::write(directory.control(), "").expect("a file can be written");
        std::fs::create_dir(directory.copy()).expect("a directory can be made");
        let handles = Arc::strong_count(&store.shared_db());
        let server = CheckpointServer::start(directory.clone(), store.shared_db()).expect("a socket");
        assert!(!directory.copy().exists());
        for _ in 0..2 {
            let checkpoint = Checkpoint::request(directory.clone()).expect("a checkpoint");
            assert!(checkpoint.path().join("CURRENT").exists());
            drop(checkpoint);
            assert!(!directory.copy().exists());
        }
        drop(server);
        assert!(!directory.control().exists());
        let error = Checkpoint::request(directory.clone()).map(drop).expect_err("nobody listens");
        assert!(error.to_string().contains("no replica answers at"), "{error}");
        assert_eq!(Arc::strong_count(&store.shared_db()), handles, "the server has let go of the database");
        // Serving can begin again, with another socket and another thread.
        let _server = CheckpointServer::start(directory.clone(), store.shared_db()).expect("a socket");
        assert!(Checkpoint::request(directory).is_ok());
    }
}
