//! A cluster of real replicas: the built `stablechatd`, a process each, with their data in a directory of their own.
//!
//! Tests run in parallel, within a process and in several. So that no two ask for the same port, a cluster listens at a
//! loopback address that is made from the number of the test's process (all of 127.0.0.0/8 is loopback on Linux), at ports
//! that are counted up. Connections that the test opens come from 127.0.0.1, so they can neither take such a port while its
//! replica is down nor be connected to themselves.

use crate::network::Network;
use crate::process::{Program, Usage, built};
use crate::raw::RawClient;
use crate::session::{Person, stamp};
use crate::wait::{SOON, wait_for, wait_until};
use rustix::process::Signal;
use stablechat_authority::Authority;
use stablechat_protocol::cluster::Cluster as ClusterFile;
use stablechat_protocol::key_file::write_key;
use stablechat_protocol::login::PublicKey;
use stablechat_protocol::name::{ClusterName, ReplicaName};
use stablechat_protocol::operator::InvitationCode;
use stablechat_protocol::version::Versions;
use stablechat_transport::TlsDialer;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The name of every cluster that tests make.
pub const CLUSTER: &str = "test";
/// The id of every cluster that tests make.
pub const CLUSTER_ID: &str = "1";

/// How large a small disk is.
pub const SMALL_DISK_MIB: usize = 48;

/// A cluster file, and the replicas of it that run. All of them are killed when it is dropped.
pub struct Cluster {
    replicas: Vec<Replica>,
    delivery_bound: Duration,
    authority: Authority,
    /// Further lines for the head of the cluster file.
    settings: &'static str,
    /// The lines of the cluster file that say who may create an account in the beginning.
    registration: String,
    /// The key of its operator.
    operator: PublicKey,
    /// The certificates of the authorities in the cluster file, if not that of `authority`.
    trusted: Option<String>,
    directory: TempDir,
    /// The network on whose hosts the replicas run, if each has a host of its own.
    network: Option<Network>,
    /// The replicas that have small disks.
    on_small_disks: &'static [&'static str],
}

/// A replica of a cluster.
struct Replica {
    name: String,
    address: SocketAddr,
    /// Where monitoring systems reach it, if they can.
    metrics: Option<SocketAddr>,
    /// The versions of the protocol that it speaks, if not those of this build.
    versions: Option<Versions>,
    /// Its process, while it runs.
    program: Option<Program>,
}

impl Cluster {
    /// Writes the cluster file for replicas of these names, and starts none.
    pub fn prepare(names: &[&str], delivery_bound: Duration) -> Cluster {
        Cluster::prepare_on(None, names, delivery_bound)
    }

    /// A cluster of which all replicas run and listen, each on the host of its name.
    pub fn start_on(network: Network, names: &[&str], delivery_bound: Duration) -> Cluster {
        let mut cluster = Cluster::prepare_on(Some(network), names, delivery_bound);
        names.iter().for_each(|name| cluster.start_replica(name));
        cluster
    }

    fn prepare_on(network: Option<Network>, names: &[&str], delivery_bound: Duration) -> Cluster {
        let address = |name: &str| network.as_ref().map_or_else(unused_address, |network| network.address(name));
        let replica = |name: &&str| {
            let (name, address) = ((*name).to_string(), address(name));
            Replica { name, address, metrics: None, versions: None, program: None }
        };
        let directory = tempfile::Builder::new().prefix("stablechat-").tempdir().expect("temporary files can be made");
        let replicas = names.iter().map(replica).collect();
        let authority = Authority::create(&ClusterName::parse(CLUSTER).expect("a name")).expect("random numbers");
        let cluster = Cluster {
            replicas,
            delivery_bound,
            authority,
            settings: "",
            registration: "registration = 'open'\n".into(),
            operator: Person::operator().secret.public(),
            trusted: None,
            directory,
            network,
            on_small_disks: &[],
        };
        cluster.write_file();
        cluster.keep_operators_key();
        names.iter().for_each(|name| cluster.certify(name, &cluster.authority));
        cluster
    }

    /// A cluster of which all replicas run and listen.
    pub fn start(names: &[&str], delivery_bound: Duration) -> Cluster {
        let mut cluster = Cluster::prepare(names, delivery_bound);
        names.iter().for_each(|name| cluster.start_replica(name));
        cluster
    }

    /// The same with accounts that need an invitation, of which one with this code is open, before any replica is started.
    pub fn by_invitation(mut self, code: &InvitationCode) -> Cluster {
        self.registration = format!("registration = 'invitation'\nfirst_invitation = '{}'\n", code.digest());
        self.write_file();
        self
    }

    /// Writes another operator's key into the cluster file, which replicas read when they are started.
    pub fn appoint(&mut self, operator: &Person) {
        self.operator = operator.secret.public();
        self.write_file();
    }

    /// The same with further lines in the cluster file, before any replica is started.
    pub fn with_settings(mut self, settings: &'static str) -> Cluster {
        self.settings = settings;
        self.write_file();
        self
    }

    /// The same with replicas that serve metrics, before any is started.
    pub fn with_metrics(mut self) -> Cluster {
        self.replicas.iter_mut().for_each(|replica| replica.metrics = Some(unused_address()));
        self
    }

    /// The same with the data of each of these replicas on a disk of [`SMALL_DISK_MIB`]. The disk is a tmpfs in a mount namespace of
    /// the replica's process, so it is gone when the process has ended.
    ///
    /// # Errors
    /// This machine does not allow mount namespaces.
    pub fn with_small_disks(mut self, names: &'static [&'static str]) -> Result<Cluster, String> {
        let nothing = with_small_disk(self.path(), &Command::new("true")).output();
        let nothing = nothing.map_err(|error| error.to_string())?;
        if !nothing.status.success() {
            return Err(String::from_utf8_lossy(&nothing.stderr).into_owned());
        }
        self.on_small_disks = names;
        Ok(self)
    }

    /// The path by which this process reaches the small disk of a running replica.
    pub fn small_disk(&mut self, name: &str) -> PathBuf {
        let root = Path::new("/proc").join(self.program(name).id().to_string()).join("root");
        root.join(self.data(name).strip_prefix("/").expect("an absolute path"))
    }

    /// Writes the cluster file.
    fn write_file(&self) {
        std::fs::write(self.file(), self.text()).expect("temporary files can be written");
        self.parsed();
    }

    /// Puts the operator's key where the client looks for keys.
    fn keep_operators_key(&self) {
        let directory = self.path().join("keys").join(format!("{CLUSTER}@{CLUSTER_ID}"));
        std::fs::create_dir_all(&directory).expect("a directory can be made");
        let Person { account, secret } = Person::operator();
        let mut options = std::fs::File::options();
        let file = options.write(true).create_new(true).mode(0o600).open(directory.join("operator.key"));
        let text = write_key(&account, &secret);
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("temporary files can be written");
    }

    /// The authority that has made the certificates of the replicas.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Gives a replica a new certificate, which it uses from its next start on.
    pub fn certify(&self, name: &str, authority: &Authority) {
        let identity = authority.issue(&ReplicaName::parse(name).expect("a name")).expect("random numbers");
        let mut options = std::fs::File::options();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(self.identity(name));
        file.and_then(|mut file| file.write_all(identity.as_bytes())).expect("temporary files can be written");
    }

    /// The file with the certificate and private key of a replica.
    pub fn identity(&self, name: &str) -> PathBuf {
        self.path().join(format!("{name}.pem"))
    }

    /// Writes the certificates of these authorities into the cluster file, which running replicas read at SIGHUP.
    pub fn trust(&mut self, authorities: &str) {
        self.trusted = Some(authorities.into());
        self.write_file();
    }

    /// Makes the near ends of connections to the replicas.
    pub fn tls(&self) -> TlsDialer {
        TlsDialer::for_client(self.authority.certificate()).expect("an authority")
    }

    /// The cluster file's text.
    fn text(&self) -> String {
        let milliseconds = self.delivery_bound.as_millis();
        let head = format!(
            "name = '{CLUSTER}'\nid = '{CLUSTER_ID}'\nca = '''\n{}'''\ndelivery_bound_ms = {milliseconds}\n\
             operators = ['{}']\n{}{}",
            self.trusted.as_deref().unwrap_or(self.authority.certificate()),
            self.operator,
            self.registration,
            self.settings
        );
        let entry =
            |replica: &Replica| format!("\n[[replica]]\nname = '{}'\naddress = '{}'\n", replica.name, replica.address);
        self.replicas.iter().map(entry).fold(head, |text, entry| text + &entry)
    }

    /// The cluster file.
    pub fn file(&self) -> PathBuf {
        self.path().join("cluster.toml")
    }

    /// The cluster file, as programs read it.
    pub fn parsed(&self) -> ClusterFile {
        ClusterFile::parse(&self.text()).expect("a cluster file as it should be")
    }

    /// The network on whose hosts the replicas run.
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("a cluster on a network")
    }

    /// The directory of all the cluster's files.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Δ.
    pub fn delivery_bound(&self) -> Duration {
        self.delivery_bound
    }

    /// The data directory of a replica.
    pub fn data(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Where a replica listens.
    pub fn address(&self, name: &str) -> SocketAddr {
        self.replica(name).address
    }

    /// Where monitoring systems reach a replica of a cluster with metrics.
    pub fn monitor(&self, name: &str) -> SocketAddr {
        self.replica(name).metrics.expect("a cluster with metrics")
    }

    /// The log lines of a replica, since its first start.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.log_file(name)).expect("the log of a replica that was started")
    }

    /// A page that a replica serves to monitoring systems, with its HTTP status.
    ///
    /// # Panics
    /// There is no answer within [`SOON`].
    pub fn page(&self, name: &str, path: &str) -> (u16, String) {
        wait_for("a page of a replica", SOON, || self.try_page(name, path))
    }

    /// The same; none if the replica does not answer.
    pub fn try_page(&self, name: &str, path: &str) -> Option<(u16, String)> {
        get(self.monitor(name), path).ok()
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.path().join(format!("{name}.log"))
    }

    /// The command that runs a replica of this cluster, with its output going to its log.
    pub fn command(&self, name: &str) -> Command {
        let log = std::fs::File::options().append(true).create(true).open(self.log_file(name));
        let mut command = match self.replica(name).versions {
            None => Command::new(built("stablechatd")),
            Some(Versions { min, max }) => {
                let mut command = Command::new(built("stablechatd-of-version"));
                command.args(["--min", &min.to_string(), "--max", &max.to_string()]);
                command
            }
        };
        command.arg("run").arg("--cluster").arg(self.file()).args(["--name", name]).arg("--data").arg(self.data(name));
        command.arg("--identity").arg(self.identity(name));
        if let Some(metrics) = self.replica(name).metrics {
            command.arg("--metrics").arg(metrics.to_string());
        }
        if let Some(network) = &self.network {
            command = network.on_host(name, &command);
        }
        if self.on_small_disks.contains(&name) {
            std::fs::create_dir_all(self.data(name)).expect("a directory can be made");
            command = with_small_disk(&self.data(name), &command);
        }
        command.stdin(std::process::Stdio::null()).stderr(log.expect("temporary files can be written"));
        command
    }

    /// The command that runs the client, without an account.
    pub fn client(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(built("stablechat"));
        command.arg("--cluster").arg(self.file()).arg("--keys").arg(self.path().join("keys")).args(arguments);
        command
    }

    /// From its next start on, a replica speaks these versions of the protocol, like a replica of another release.
    pub fn speak(&mut self, name: &str, versions: Versions) {
        self.replica_mut(name).versions = Some(versions);
    }

    /// Starts a replica, and waits until it listens.
    pub fn start_replica(&mut self, name: &str) {
        self.spawn_replica(name);
        self.wait_until_listening(name);
    }

    /// Starts a replica.
    pub fn spawn_replica(&mut self, name: &str) {
        let command = self.command(name);
        let replica = self.replica_mut(name);
        assert!(replica.program.is_none(), "replica {name} runs already");
        replica.program = Some(Program::spawn(command));
    }

    /// Waits until a replica accepts connections.
    ///
    /// # Panics
    /// It ends instead, or takes too long.
    pub fn wait_until_listening(&mut self, name: &str) {
        let log = self.log_file(name);
        let Replica { address, program, .. } = self.replica_mut(name);
        let program = program.as_mut().expect("a replica that was started");
        wait_until("a replica listens", SOON, || {
            if let Some(status) = program.ended() {
                panic!("the replica ended with {status}: {}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            TcpStream::connect(*address).is_ok()
        });
    }

    /// The running process of a replica.
    pub fn program(&mut self, name: &str) -> &mut Program {
        self.replica_mut(name).program.as_mut().expect("a replica that runs")
    }

    /// The processor time and memory that a running replica has used.
    pub fn usage(&self, name: &str) -> Usage {
        self.replica(name).program.as_ref().expect("a replica that runs").usage()
    }

    /// Ends a replica with SIGKILL, as a power failure would, and waits until it is gone.
    pub fn kill(&mut self, name: &str) {
        let mut program = self.replica_mut(name).program.take().expect("a replica that runs");
        program.signal(Signal::KILL);
        program.wait();
    }

    /// Asks a replica to stop with SIGTERM, and waits until it has.
    pub fn stop(&mut self, name: &str) -> ExitStatus {
        let mut program = self.replica_mut(name).program.take().expect("a replica that runs");
        program.signal(Signal::TERM);
        program.wait()
    }

    /// Waits until a replica has ended by itself.
    pub fn wait_for_end(&mut self, name: &str) -> ExitStatus {
        self.replica_mut(name).program.take().expect("a replica that was started").wait()
    }

    /// Deletes the data of a replica that does not run.
    pub fn wipe(&mut self, name: &str) {
        assert!(self.replica(name).program.is_none(), "replica {name} runs");
        std::fs::remove_dir_all(self.data(name)).expect("the data of a replica that ran");
    }

    /// Waits until all replicas answer the same query from the same log, and returns the log's length. The query has one place
    /// in the order, so this works under load.
    ///
    /// # Panics
    /// The replicas still differ after the limit.
    pub fn wait_until_same(&self, limit: Duration) -> u64 {
        let tls = self.tls();
        let mut clients: Vec<Option<RawClient>> = self.replicas.iter().map(|_| None).collect();
        let deadline = Instant::now() + limit;
        loop {
            for (client, replica) in clients.iter_mut().zip(&self.replicas) {
                // `greet` would panic when a replica listens and does not answer.
                if client.is_none() {
                    *client = RawClient::connect(replica.address, &replica.name, &tls).ok();
                    client.as_mut().and_then(|client| client.greet(CLUSTER).ok());
                }
            }
            // Only now: to connect takes several round trips, and a query that comes late is refused.
            let timestamp = stamp();
            for client in &mut clients {
                if client.as_mut().is_some_and(|client| client.ask_for_position(timestamp).is_err()) {
                    *client = None;
                }
            }
            let positions: Vec<_> = clients
                .iter_mut()
                .map(|client| client.as_mut().and_then(|client| client.position(timestamp)))
                .collect();
            if let Some(Some((position, _))) = positions.first()
                && positions.iter().all(|position| *position == positions[0])
            {
                return *position;
            }
            for (client, position) in clients.iter_mut().zip(&positions) {
                if position.is_none() {
                    *client = None;
                }
            }
            assert!(Instant::now() < deadline, "after {limit:?} the replicas are at {positions:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A connection to a replica, without a hello.
    pub fn connect(&self, name: &str) -> RawClient {
        let (address, tls) = (self.address(name), self.tls());
        wait_for("a connection to a replica", SOON, || RawClient::connect(address, name, &tls).ok())
    }

    /// A connection to a replica from this address of the machine, after hello and welcome.
    pub fn greet_from(&self, name: &str, source: [u8; 4]) -> RawClient {
        let client = RawClient::connect_from(source.into(), self.address(name), name, &self.tls());
        greeted(client.expect("a connection"), name)
    }

    /// A connection to a replica, after hello and welcome.
    pub fn greet(&self, name: &str) -> RawClient {
        greeted(self.connect(name), name)
    }

    fn replica(&self, name: &str) -> &Replica {
        self.replicas.iter().find(|replica| replica.name == name).expect("a replica of this cluster")
    }

    fn replica_mut(&mut self, name: &str) -> &mut Replica {
        self.replicas.iter_mut().find(|replica| replica.name == name).expect("a replica of this cluster")
    }
}

/// A connection to the replica of this name, after hello and welcome.
fn greeted(mut client: RawClient, name: &str) -> RawClient {
    let welcomed = client.greet(CLUSTER);
    assert_eq!(welcomed, Ok(ReplicaName::parse(name).expect("a name")));
    client
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for replica in &self.replicas {
                let log = std::fs::read_to_string(self.log_file(&replica.name)).unwrap_or_default();
                eprintln!("--- the log of replica {}:\n{log}", replica.name);
            }
        }
    }
}

/// Asks for a page by HTTP, and returns its status and its text.
fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, body.to_string()))
}

/// A command with a small disk mounted on a directory.
fn with_small_disk(directory: &Path, command: &Command) -> Command {
    let mut mounted = Command::new("unshare");
    let script = format!("mount -t tmpfs -o size={SMALL_DISK_MIB}m none \"$0\" && exec \"$@\"");
    mounted.args(["--mount", "sh", "-c", &script]).arg(directory).arg(command.get_program()).args(command.get_args());
    mounted
}

/// An address that no other test uses while this process runs.
fn unused_address() -> SocketAddr {
    static NEXT_PORT: AtomicU16 = AtomicU16::new(7400);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    // Not 127.0.x.x, where other programs listen.
    let host = Ipv4Addr::new(127, 128 + high % 64, middle, low);
    loop {
        let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::V4(SocketAddrV4::new(host, port));
        // Another program may listen at this port of all addresses.
        if TcpListener::bind(address).is_ok() {
            return address;
        }
        assert!(port < 32_000, "no port is free at {host}");
    }
}
