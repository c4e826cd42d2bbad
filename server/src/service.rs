//! Wires a replica together: store, protocol, poll loop, and the two threads they run on.

use crate::applier::{self, Applier};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::exit;
use crate::net::{Listener, Monitor, PollLoop, ReplicaIdentity};
use crate::replica;
use crate::store::{DataDirectory, OpenError, StoreError, schema};
use crate::supervision::{Pulse, Supervisor};
use mio::net::UnixStream;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::name::ReplicaName;
use stablechat_protocol::peer::BODIES_BYTES;
use stablechat_protocol::version::Versions;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The files that a replica opens at most: its connections, those of the store, and a few more.
const FILES_WANTED: u64 = 2048;
/// The most requests that are undone and applied again while others wait for us: about a tenth of a second of work.
const DEPTH_MAX: u64 = 256;

/// What a replica needs to know to run.
#[derive(Clone, Debug)]
pub struct ServiceSettings {
    /// The cluster, from its file.
    pub cluster: Cluster,
    /// Which replica of it this is.
    pub name: ReplicaName,
    /// Where it keeps its data.
    pub data: PathBuf,
    /// `HOST:PORT`, where it serves metrics, if it shall.
    pub metrics: Option<String>,
    /// The versions of the protocol that it speaks; others than [`Versions::OURS`] are for tests of upgrades.
    pub versions: Versions,
}

/// Why a replica could not start, or had to stop.
#[derive(Debug)]
pub enum ServiceError {
    /// The cluster file has no replica of this name.
    NotInCluster(Box<ServiceSettings>),
    /// The data directory could not be opened.
    Open(OpenError),
    /// The address could not be listened on.
    Listen(String, io::Error),
    /// Storage failed while running.
    Store(StoreError),
    /// The operating system refused something else: what was being done, and its answer.
    System(&'static str, io::Error),
}

impl ServiceError {
    /// The exit code of the process that ends over this.
    pub fn exit_code(&self) -> i32 {
        match self {
            ServiceError::NotInCluster(_) => exit::CONFIGURATION,
            ServiceError::Open(error) => exit::of_opening(error),
            ServiceError::Listen(_, error) if error.kind() == io::ErrorKind::AddrInUse => exit::UNAVAILABLE,
            ServiceError::Listen(..) => exit::CONFIGURATION,
            ServiceError::Store(_) | ServiceError::System(..) => exit::IO,
        }
    }
}

impl ServiceError {
    /// A replica that ran could not go on.
    fn stopped(error: OpenError) -> ServiceError {
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
                write!(formatter, "the cluster file has no replica {name}; it has {}", names.join(", "))
            }
            ServiceError::Open(error) => error.fmt(formatter),
            ServiceError::Listen(address, error) if error.kind() == io::ErrorKind::AddrInUse => {
                write!(
                    formatter,
                    "the address {address} is in use by another process; is this replica running already?"
                )
            }
            ServiceError::Listen(address, error) => write!(formatter, "cannot listen on {address}: {error}"),
            ServiceError::Store(error) => write!(formatter, "the replica had to stop: {error}"),
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
    let owner =
        schema::StoreIdentity { cluster: settings.cluster.name.to_string(), replica: settings.name.to_string() };
    let (disk, store) = Disk::open(DataDirectory(settings.data.clone()), owner, settings.cluster.log_retention)
        .map_err(ServiceError::Open)?;
    allow_files();
    let clock = Clock::start(settings.cluster.delivery_bound / 2);
    let (listener, address) = listen(identity.address())?;
    let monitor = match &settings.metrics {
        Some(address) => {
            let (listener, address) = listen(address)?;
            log::info!("metrics are at http://{address}/metrics");
            Some(Monitor::new(listener, store.writes()))
        }
        None => None,
    };
    let stop = stop_signal().map_err(|error| ServiceError::System("watch for signals", error))?;
    let peers = identity.peers().map(|(peer, _)| peer).collect();
    let (poll_loop, rounds, mailbox) = PollLoop::new(listener, monitor, stop, identity.clone(), clock.clone())
        .map_err(|error| ServiceError::System("watch sockets", error))?;

    let applied = store.applied().clone();
    log::info!(
        "replica {} of cluster {} listening on {address}: epoch {}, {} requests applied",
        settings.name,
        settings.cluster.name,
        store.epoch(),
        applied.position
    );
    let Cluster { delivery_bound, min_live, .. } = settings.cluster;
    let (ahead, place) = (settings.cluster.ahead(), identity.place());
    let (depth_max, piece_bytes) = (DEPTH_MAX, BODIES_BYTES);
    let protocol = replica::ProtocolSettings { delivery_bound, ahead, place, peers, min_live, depth_max, piece_bytes };
    let applier = Applier::start(identity, protocol, store, clock.now()).map_err(ServiceError::Store)?;
    let (pulse, prompter) = (Pulse::default(), mailbox.prompter());
    let beats = pulse.clone();
    let thread = std::thread::Builder::new()
        .name("applier".into())
        .spawn(move || applier::run(applier, &rounds, &mailbox, clock, disk, &beats))
        .map_err(|error| ServiceError::System("start a thread", error))?;
    let supervisor =
        Supervisor::start(pulse, prompter).map_err(|error| ServiceError::System("start a thread", error))?;
    poll_loop.run().map_err(|error| ServiceError::System("wait for sockets", error))?;
    let applied = thread.join().expect("a panic has ended the process");
    supervisor.map_or(Ok(()), Supervisor::end).map_err(|error| ServiceError::System("end a thread", error))?;
    applied.map_err(ServiceError::stopped)?;
    log::info!("replica {} has stopped", settings.name);
    Ok(())
}

/// Listens on an address, and says which one that came to.
fn listen(address: &str) -> Result<(Listener, SocketAddr), ServiceError> {
    let failed = |error| ServiceError::Listen(address.to_string(), error);
    let listener = Listener::bind(address).map_err(failed)?;
    let address = listener.address().map_err(failed)?;
    Ok((listener, address))
}

/// Raises the limit to the files that this process may open as far as it is allowed to: with the usual 1,024, connections
/// would leave none for the store.
fn allow_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let allowed = match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(_) => current,
    };
    if let Some(allowed) = allowed.filter(|allowed| *allowed < FILES_WANTED) {
        log::warn!(
            "this process may open {allowed} files, but {FILES_WANTED} are needed for as many connections as it can serve"
        );
    }
}

/// A socket that becomes readable when the process is asked to stop.
fn stop_signal() -> io::Result<UnixStream> {
    let (read, write) = std::os::unix::net::UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGTERM, write.try_clone()?)?;
    signal_hook::low_level::pipe::register(SIGINT, write)?;
    read.set_nonblocking(true)?;
    Ok(UnixStream::from_std(read))
}
