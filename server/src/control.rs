//! A running replica gives a copy of its database to whoever makes a backup of it.
//!
//! Only the process that has a database open can say what belongs together in it. But it may not be allowed to write where the
//! backup goes, and should be neither slowed nor endangered by it. So it does the least: it makes a *copy*, which is links to
//! the sorted files, a few small files and no more, beside the database. The process that asked reads that for as long as it
//! likes, and the copy lives as long as the connection.
//!
//! The socket lies in the data directory. Who may connect is who may read the data anyway: the replica's user, and root.

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

/// What a replica says when the copy is there.
const READY: &str = "ready";
/// How long to wait after a connection could not be accepted, for files to be closed.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Copies are given until this is dropped.
pub struct Control {
    directory: DataDirectory,
    /// The database; none once the replica stops. Locked while a copy is made.
    db: Arc<Mutex<Option<Arc<DB>>>>,
}

impl Control {
    /// Gives copies of the database of a data directory that is locked for this process, from a thread of its own.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn start(directory: DataDirectory, db: Arc<DB>) -> io::Result<Control> {
        // A copy that is left over is removed, unless someone reads it still.
        if directory.lock_for_backup().map_err(io::Error::other)?.is_some() {
            directory.remove_copy()?;
        }
        let listener = listen(&directory)?;
        let db = Arc::new(Mutex::new(Some(db)));
        let control = Control { directory: directory.clone(), db: Arc::clone(&db) };
        std::thread::Builder::new().name("control".into()).spawn(move || serve(&listener, &directory, &db))?;
        Ok(control)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // The database must not outlive the lock on its directory.
        *self.db.lock() = None;
        // A connection lets the thread see that.
        let closed = connect(&self.directory).and_then(|_| std::fs::remove_file(self.directory.control()));
        if let Err(error) = closed {
            log::warn!("cannot close {}: {error}", self.directory.control().display());
        }
    }
}

/// A copy of a running replica's database, for as long as this lives.
pub struct Copy {
    directory: DataDirectory,
    _connection: UnixStream,
}

/// Why there is no copy.
#[derive(Debug)]
pub enum CopyError {
    /// The process that has the data directory cannot be talked to.
    Unreachable(PathBuf, io::Error),
    /// It could not make one: why.
    Refused(String),
}

impl fmt::Display for CopyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CopyError::Unreachable(socket, error) => write!(
                formatter,
                "the data directory is in use, but nobody answers at {}: {error}; is the replica about to start or stop?",
                socket.display()
            ),
            CopyError::Refused(why) => write!(formatter, "the replica cannot make a copy of its data: {why}"),
        }
    }
}

impl std::error::Error for CopyError {}

impl Copy {
    /// Asks the replica that runs in a data directory.
    ///
    /// # Errors
    /// It does not answer, or cannot make a copy.
    pub fn ask(directory: DataDirectory) -> Result<Copy, CopyError> {
        let unreachable = |error| CopyError::Unreachable(directory.control(), error);
        let connection = connect(&directory).map_err(unreachable)?;
        let mut reply = String::new();
        BufReader::new(&connection).read_line(&mut reply).map_err(unreachable)?;
        match reply.trim_end() {
            READY => Ok(Copy { directory, _connection: connection }),
            "" => Err(unreachable(io::ErrorKind::UnexpectedEof.into())),
            why => Err(CopyError::Refused(why.to_string())),
        }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.directory.copy()
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // The replica does it as well, unless it has died meanwhile.
        if let Err(error) = self.directory.remove_copy() {
            log::warn!("cannot remove the copy of the database: {error}");
        }
    }
}

/// A socket in a data directory. A stale one is from a process that had the directory before.
fn listen(directory: &DataDirectory) -> io::Result<UnixListener> {
    match std::fs::remove_file(directory.control()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    by_short_path(directory, UnixListener::bind)
}

/// A connection to the socket in a data directory.
fn connect(directory: &DataDirectory) -> io::Result<UnixStream> {
    by_short_path(directory, UnixStream::connect)
}

/// Uses the socket under a path that is short however long the directory's is: addresses of sockets end after 108 bytes.
fn by_short_path<T>(directory: &DataDirectory, use_it: impl FnOnce(PathBuf) -> io::Result<T>) -> io::Result<T> {
    let open = File::open(&directory.0)?;
    use_it(PathBuf::from(format!("/proc/self/fd/{}/control", open.as_raw_fd())))
}

/// Gives a copy to one after the other, until the replica stops.
fn serve(listener: &UnixListener, directory: &DataDirectory, db: &Mutex<Option<Arc<DB>>>) {
    for connection in listener.incoming() {
        if db.lock().is_none() {
            return;
        }
        let attended = connection.and_then(|connection| attend(connection, directory, db));
        if let Err(error) = attended {
            log::warn!("a copy of the data could not be given: {error}");
            std::thread::sleep(RETRY_DELAY);
        }
    }
}

/// Gives a copy, and removes it when it is no longer wanted.
fn attend(connection: UnixStream, directory: &DataDirectory, db: &Mutex<Option<Arc<DB>>>) -> io::Result<()> {
    let reply = match make(directory, db) {
        Ok(()) => READY.to_string(),
        Err(why) => why.replace('\n', " "),
    };
    let lent = lend(connection, &reply);
    // When the replica stops meanwhile, or opens its store anew, the copy is no longer ours to remove.
    let db = db.lock();
    if db.is_some() {
        directory.remove_copy()?;
    }
    lent
}

/// Says what came of making a copy, and waits until it is not wanted any more.
fn lend(mut connection: UnixStream, reply: &str) -> io::Result<()> {
    match writeln!(connection, "{reply}") {
        // Who asked has died meanwhile.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        written => written?,
    }
    // Nothing is said, so this ends with the connection.
    match connection.read_to_end(&mut Vec::new()) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
        _ => Ok(()),
    }
}

/// Makes a copy, in the place of what another has left, or says why there is none.
fn make(directory: &DataDirectory, db: &Mutex<Option<Arc<DB>>>) -> Result<(), String> {
    let db = db.lock();
    let db = db.as_ref().ok_or("it is about to stop")?;
    directory.remove_copy().map_err(|error| format!("removing an earlier copy failed: {error}"))?;
    copy_database(db, &directory.copy()).map_err(|error: StoreError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{ChatStore, Location, schema::StoreIdentity};

    /// A store in a directory whose name is longer than the address of a socket may be.
    fn store(directory: &DataDirectory) -> ChatStore {
        let identity = StoreIdentity { cluster: "test".into(), replica: "one".into() };
        ChatStore::open(&Location::Directory(directory.0.clone()), &identity).expect("a store")
    }

    #[test]
    fn a_copy_is_there_for_as_long_as_it_is_wanted() {
        let temporary = tempfile::tempdir().expect("a directory can be made");
        let directory = DataDirectory(temporary.path().join("long".repeat(40)));
        let store = store(&directory);
        let handles = Arc::strong_count(&store.shared_db());
        // What a killed process has left is in nobody's way.
        std::fs::write(directory.control(), "").expect("a file can be written");
        std::fs::create_dir(directory.copy()).expect("a directory can be made");
        let control = Control::start(directory.clone(), store.shared_db()).expect("a socket");
        assert!(!directory.copy().exists());
        for _ in 0..2 {
            let copy = Copy::ask(directory.clone()).expect("a copy");
            assert!(copy.path().join("CURRENT").exists());
            drop(copy);
            assert!(!directory.copy().exists());
        }
        drop(control);
        assert!(!directory.control().exists());
        let error = Copy::ask(directory.clone()).map(drop).expect_err("nobody listens");
        assert!(error.to_string().contains("nobody answers at"), "{error}");
        assert_eq!(Arc::strong_count(&store.shared_db()), handles, "nobody else has the database");
        // It can be begun again, which takes another socket and another thread.
        let _control = Control::start(directory.clone(), store.shared_db()).expect("a socket");
        assert!(Copy::ask(directory).is_ok());
    }
}
