//! Runs a replica: opens the store, listens, and starts the threads.
//!
//! | thread | what it does |
//! |---|---|
//! | main | the poll loop: all sockets |
//! | applier | the replication protocol and the store |
//! | checkpoints | lends backups a copy of the database |
//! | systemd | reports to systemd, when the replica runs under it |
//! | certificates | reads the certificates anew at each SIGHUP |
//!
//! On SIGTERM or SIGINT the poll loop tells the applier to stop. The applier hands its pending requests to its peers, returns,
//! and so drops its side of the channels. The poll loop writes its write buffers and returns as well. The threads are joined, so
//! nothing is lost in a buffer. When the applier fails, the same happens without the handing over.

use crate::applier::{self, Applier, Ended};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::exit;
use crate::net::{Listener, Monitor, PollLoop, ReplicaIdentity, ReplicaTls};
use crate::replica;
use crate::store::{ChatStore, DataDirectory, OpenError, StoreError, schema};
use crate::systemd::{Heartbeat, SystemdReporter};
use crate::tls_files::TlsFiles;
use mio::net::UnixStream;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::name::ReplicaName;
use stablechat_protocol::peer::BODIES_BYTES;
use stablechat_protocol::version::Versions;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The most files that a replica opens: its connections, the store's files, and a few more.
const FILES_WANTED: u64 = 2048;
/// The most requests that a repair undoes and applies again in one go while clients wait: about 100 ms of work.
const REPAIR_DEPTH_MAX: u64 = 256;
/// How often a replica may begin anew, not having been stable, before it waits longer each time before it joins. Some restarts
/// are accidents, and each costs the others about the delivery bound.
const RESTARTS_FREE: u32 = 3;

/// What a replica needs to know to run.
#[derive(Clone, Debug)]
pub struct ServiceSettings {
    pub cluster: Cluster,
    /// Which replica of the cluster this is.
    pub name: ReplicaName,
    /// The files with its certificate and with those that it trusts. They are read anew at each SIGHUP.
    pub tls_files: TlsFiles,
    /// A directory that may have newer ones by then.
    pub newer_files: Option<PathBuf>,
    /// The data directory.
    pub data: PathBuf,
    /// `HOST:PORT` where it serves metrics; none when it does not.
    pub metrics: Option<String>,
    /// The versions of the protocol that it speaks. Others than [`Versions::OURS`] are for tests of upgrades.
    pub versions: Versions,
}

/// Why a replica could not start, or had to stop.
#[derive(Debug)]
pub enum ServiceError {
    /// The cluster file does not name this replica.
    NotInCluster(Box<ServiceSettings>),
    /// Its certificate, or those of the authorities, cannot be used. The text says why, and what to do.
    Certificate(String),
    /// The data directory cannot be opened.
    Open(OpenError),
    /// The replica cannot listen on this address.
    Listen(String, io::Error),
    /// Storage failed while the replica ran.
    Store(StoreError),
    /// The replica stood down because its clock was wrong, and the wall clock has been set back.
    ClockSetBack,
    /// The operating system refused something else. The text completes "cannot …".
    System(&'static str, io::Error),
}

impl ServiceError {
    /// The exit code of the process.
    pub fn exit_code(&self) -> i32 {
        match self {
            ServiceError::NotInCluster(_) | ServiceError::Certificate(_) => exit::CONFIGURATION,
            ServiceError::Open(error) => exit::of_opening(error),
            ServiceError::Listen(_, error) if error.kind() == io::ErrorKind::AddrInUse => exit::UNAVAILABLE,
            ServiceError::Listen(..) => exit::CONFIGURATION,
            ServiceError::Store(_) | ServiceError::System(..) => exit::IO,
            ServiceError::ClockSetBack => exit::START_AGAIN,
        }
    }

    /// For an error of the applier, which opens the store again after the disk was full: a storage error is then one of a replica
    /// that ran, not of one that could not start.
    fn while_running(error: OpenError) -> ServiceError {
        match error {
            OpenError::Store(error) => ServiceError::Store(error),
            error => ServiceError::Open(error),
        }
    }
}

impl fmt::Display for ServiceError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServiceError::NotInCluster(settings) => {
                let ServiceSettings { cluster, name, .. } = &**settings;
                let names: Vec<&str> = cluster.replicas.iter().map(|replica| replica.name.as_str()).collect();
                write!(
                    formatter,
                    "the cluster file has no replica {name}; it has {}: choose one of them with --name",
                    names.join(", ")
                )
            }
            ServiceError::Certificate(fault) => formatter.write_str(fault),
            ServiceError::Open(error) => error.fmt(formatter),
            ServiceError::Listen(address, error) if error.kind() == io::ErrorKind::AddrInUse => {
                write!(
                    formatter,
                    "the address {address} is in use by another process; is this replica running already?"
                )
            }
            ServiceError::Listen(address, error) => write!(
                formatter,
                "cannot listen on {address}: {error}; the address in the cluster file (or after --metrics) must be one of this \
                 machine's"
            ),
            ServiceError::Store(error) => write!(
                formatter,
                "the replica had to stop because storage failed: {error}; look after the disk, and examine the data with \
                 `stablechatd check`"
            ),
            ServiceError::ClockSetBack => formatter.write_str(
                "the wall clock has been set back, and this replica's own clock, which was wrong, never goes back: start the replica \
                 again (systemd does so)",
            ),
            ServiceError::System(doing, error) => write!(formatter, "cannot {doing}: {error}"),
        }
    }
}

impl std::error::Error for ServiceError {}

/// Runs a replica until SIGTERM or SIGINT.
///
/// # Errors
/// It could not start, or storage failed.
pub fn run(settings: ServiceSettings) -> Result<(), ServiceError> {
    let Some(identity) = ReplicaIdentity::of(&settings.cluster, &settings.name) else {
        return Err(ServiceError::NotInCluster(Box::new(settings)));
    };
    let identity = identity.speaking(settings.versions);
    let tls = settings.tls_files.load(&settings.cluster).map_err(ServiceError::Certificate)?;

    // The data directory comes first, because it is locked: a second process of the same replica must not get as far as
    // listening.
    let (disk, store) = open_store(&settings)?;
    raise_file_limit();

    let protocol = protocol_settings(&settings.cluster, &identity);
    let clock = Clock::start(protocol.hop());
    let (listener, address) = listen(identity.address())?;
    let monitor = monitor(&settings, &store)?;
    let stop = stop_signal().map_err(|error| ServiceError::System("watch for signals", error))?;
    let (poll_loop, batches, net) =
        PollLoop::new(listener, monitor, stop, identity.clone(), tls.clone(), clock.clone())
            .map_err(|error| ServiceError::System("watch sockets", error))?;
    log::info!(
        "replica {} of cluster {} listening on {address}: epoch {}, {} requests applied",
        settings.name,
        settings.cluster.name,
        store.epoch(),
        store.applied().position
    );

    let applier = Applier::start(identity, protocol, store, clock.now()).map_err(ServiceError::Store)?;
    let (heartbeat, waker) = (Heartbeat::default(), net.waker());
    let beating = heartbeat.clone();
    let applier = std::thread::Builder::new()
        .name("applier".into())
        .spawn(move || applier::run(applier, &batches, &net, clock, disk, &beating))
        .map_err(|error| ServiceError::System("start a thread", error))?;
    let systemd = SystemdReporter::start(heartbeat, waker)
        .map_err(|error| ServiceError::System("start reporting to systemd", error))?;

    renew_at_signals(settings.tls_files.clone(), settings.newer_files.clone(), tls)
        .map_err(|error| ServiceError::System("start a thread that renews certificates", error))?;

    // Returns when the applier has dropped its side of the channels and everything is sent.
    poll_loop.run().map_err(|error| ServiceError::System("wait for sockets", error))?;
    let applied = applier.join().expect("a panic has ended the process");
    systemd
        .map_or(Ok(()), SystemdReporter::end)
        .map_err(|error| ServiceError::System("stop reporting to systemd", error))?;
    outcome(applied)?;
    log::info!("replica {} has stopped", settings.name);
    Ok(())
}

/// What the end of the applier means for the process.
fn outcome(applied: Result<Ended, OpenError>) -> Result<(), ServiceError> {
    match applied.map_err(ServiceError::while_running)? {
        Ended::Stopped => Ok(()),
        Ended::ClockSetBack => Err(ServiceError::ClockSetBack),
    }
}

/// Locks the data directory and opens the store in it.
fn open_store(settings: &ServiceSettings) -> Result<(Disk, ChatStore), ServiceError> {
    let ServiceSettings { cluster, name, data, .. } = settings;
    let owner = schema::StoreIdentity { cluster: cluster.name.to_string(), replica: name.to_string() };
    Disk::open(DataDirectory(data.clone()), owner, cluster.initial.clone(), cluster.log_retention)
        .map_err(ServiceError::Open)
}

/// Listens for a monitoring system, if the settings say where.
fn monitor(settings: &ServiceSettings, store: &ChatStore) -> Result<Option<Monitor>, ServiceError> {
    let Some(address) = &settings.metrics else { return Ok(None) };
    let (listener, address) = listen(address)?;
    log::info!("metrics are at http://{address}/metrics");
    Ok(Some(Monitor::new(listener, store.writes())))
}

/// What the replication protocol goes by, from the cluster file.
fn protocol_settings(cluster: &Cluster, identity: &ReplicaIdentity) -> replica::ProtocolSettings {
    replica::ProtocolSettings {
        delivery_bound: cluster.delivery_bound,
        ahead: cluster.ahead(),
        place: identity.place(),
        peers: identity.peers().map(|(peer, _)| peer).collect(),
        min_live: cluster.min_live,
        refusal_is_proof: cluster.refusal_is_proof,
        depth_max: REPAIR_DEPTH_MAX,
        piece_bytes: BODIES_BYTES,
        restarts_free: RESTARTS_FREE,
    }
}

/// Listens on an address. The returned address has the port that the operating system chose when the given one is 0.
fn listen(address: &str) -> Result<(Listener, SocketAddr), ServiceError> {
    let failed = |error| ServiceError::Listen(address.to_string(), error);
    let listener = Listener::bind(address).map_err(failed)?;
    let address = listener.address().map_err(failed)?;
    Ok((listener, address))
}

/// Raises this process's limit of open files as far as it is allowed to. With the usual 1,024, connections could leave none for
/// the store, which cannot go on then.
fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let allowed = match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(_) => current,
    };

    if let Some(allowed) = allowed.filter(|allowed| *allowed < FILES_WANTED) {
        log::warn!(
            "this process may open {allowed} files, and needs {FILES_WANTED} to serve as many connections as it accepts; raise the \
             limit (`ulimit -n`, or LimitNOFILE= in its unit)"
        );
    }
}

/// Starts a thread that reads the certificates anew at each SIGHUP. It ends with the process. Files that cannot be used change
/// nothing.
fn renew_at_signals(files: TlsFiles, newer: Option<PathBuf>, tls: ReplicaTls) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP])?;
    let renew = move || {
        for _ in signals.forever() {
            let files = newer.as_deref().map_or_else(|| files.clone(), |directory| files.or_in(directory));
            match files.load_both() {
                Ok(renewed) => {
                    tls.replace(&renewed);
                    log::info!(
                        "new connections use the certificate in {}, and trust the authorities in {}",
                        files.identity.display(),
                        files.cluster.display()
                    );
                }
                Err(fault) => log::error!("the certificates stay as they were: {fault}"),
            }
        }
    };
    std::thread::Builder::new().name("certificates".into()).spawn(renew).map(drop)
}

/// A socket that becomes readable when the process is asked to stop.
fn stop_signal() -> io::Result<UnixStream> {
    let (read, write) = std::os::unix::net::UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGTERM, write.try_clone()?)?;
    signal_hook::low_level::pipe::register(SIGINT, write)?;
    read.set_nonblocking(true)?;
    Ok(UnixStream::from_std(read))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_whose_clock_is_to_be_set_back_asks_to_be_started_again() {
        assert!(outcome(Ok(Ended::Stopped)).is_ok());
        let error = outcome(Ok(Ended::ClockSetBack)).expect_err("it has to be started again");
        assert_eq!(error.exit_code(), 75, "the unit files and the operations manual name it: {error}");
    }
}
