//! A network of namespaces (Linux): a host for each replica, all on one bridge, whose cables can be pulled.
//!
//! A cable is pulled at the bridge's end, so that a host still reaches itself. A thread can move into a host, and what it
//! connects from there takes that host's cable. Cables may have a wire in their middle that delays frames and loses some
//! (`wires`); what comes of it can be measured (`measuring`).

mod measuring;
mod wires;

pub use measuring::Measured;
pub use wires::Wire;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use wires::Wires;

/// The port at which replicas listen.
const PORT: u16 = 7400;

/// Held by the one network that there is of this process: its names and addresses are made from the process's number, and two
/// clusters at a time would slow each other down where times are looked at.
static TURN: Mutex<()> = Mutex::new(());

/// A bridge, and hosts on it. All is gone when it is dropped.
pub struct Network {
    /// What its interfaces and namespaces are called: this, and the host's name.
    prefix: String,
    hosts: Vec<String>,
    /// The first three bytes of all addresses.
    subnet: [u8; 3],
    /// The wires in its cables, if it has any.
    wires: Option<Wires>,
    /// Given up when all else is gone.
    _turn: MutexGuard<'static, ()>,
}

impl Network {
    /// Makes a network with hosts of these names.
    ///
    /// # Errors
    /// Why this machine does not let us.
    pub fn new(hosts: &[&str]) -> Result<Network, String> {
        let network = Network::unmade(hosts);
        network.make(|host| {
            let (cable, namespace) = (network.cable(host), network.namespace(host));
            change(&format!("link add name {cable} type veth peer name eth0 netns {namespace}"));
        })?;
        Ok(network)
    }

    /// Makes a network with hosts of these names, and a wire in each cable. The wires are in a namespace of their own, where
    /// nobody answers for addresses that are not there.
    ///
    /// # Errors
    /// Why this machine does not let us.
    pub fn with_wires(hosts: &[&str]) -> Result<Network, String> {
        let mut network = Network::unmade(hosts);
        let middle = network.middle();
        ip(&format!("netns add {middle}"))?;
        network.make(|host| {
            let (cable, namespace, far) = (network.cable(host), network.namespace(host), far_end(host));
            change(&format!("link add name {cable} type veth peer name {far} netns {middle}"));
            change(&format!("-n {middle} link add name {host} type veth peer name eth0 netns {namespace}"));
            change(&format!("-n {middle} link set {far} up"));
            change(&format!("-n {middle} link set dev {host} up"));
            // A wire carries frames one by one, and loses them so: none that is cut into many only at its end.
            change(&format!("-n {namespace} link set eth0 gso_max_segs 1"));
        })?;
        network.wires = Some(Wires::lay(&middle, network.hosts.iter().map(|host| (host.clone(), far_end(host)))));
        Ok(network)
    }

    fn unmade(hosts: &[&str]) -> Network {
        // Whoever panicked in its turn has dropped its network all the same.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        let prefix = format!("sc{:x}", std::process::id());
        // Somewhere in 10.0.0.0/8, by the number of our process.
        let subnet = [10, middle ^ high ^ 0x55, low];
        Network { prefix, hosts: hosts.iter().map(ToString::to_string).collect(), subnet, wires: None, _turn: turn }
    }

    /// Makes the bridge, the hosts' namespaces, and each host's cable, as it is told to. A machine that lets us make a bridge
    /// and namespaces does not forbid the rest.
    fn make(&self, lay_cable: impl Fn(&str)) -> Result<(), String> {
        let (bridge, ours) = (self.bridge(), self.ip(254));
        ip(&format!("link add name {bridge} type bridge"))?;
        change(&format!("addr add {ours}/24 dev {bridge}"));
        change(&format!("link set {bridge} up"));
        for (host, number) in self.hosts.iter().zip(1..) {
            let (namespace, cable, address) = (self.namespace(host), self.cable(host), self.ip(number));
            ip(&format!("netns add {namespace}"))?;
            lay_cable(host);
            change(&format!("link set {cable} master {bridge} up"));
            change(&format!("-n {namespace} addr add {address}/24 dev eth0"));
            change(&format!("-n {namespace} link set eth0 up"));
            change(&format!("-n {namespace} link set lo up"));
        }
        Ok(())
    }

    /// Where the replica on a host listens.
    pub fn address(&self, host: &str) -> SocketAddr {
        let place = self.hosts.iter().position(|name| name == host).expect("a host of this network");
        SocketAddr::V4(SocketAddrV4::new(self.ip(place as u8 + 1), PORT))
    }

    /// The command that runs another on a host. It becomes the other, so that its process is the other's.
    pub fn on_host(&self, host: &str, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.namespace(host)]).arg(command.get_program()).args(command.get_args());
        inside
    }

    /// The namespace of a host, for [`enter`].
    pub fn path(&self, host: &str) -> PathBuf {
        PathBuf::from("/run/netns").join(self.namespace(host))
    }

    /// Pulls the cable of a host.
    pub fn cut(&self, host: &str) {
        change(&format!("link set {} down", self.cable(host)));
    }

    /// Plugs the cable of a host in again.
    pub fn mend(&self, host: &str) {
        change(&format!("link set {} up", self.cable(host)));
    }

    /// From here on the wire in a host's cable is like this.
    pub fn set_wire(&self, host: &str, wire: Wire) {
        self.wires.as_ref().expect("a network with wires").set(host, wire);
    }

    fn ip(&self, last: u8) -> Ipv4Addr {
        let [first, second, third] = self.subnet;
        Ipv4Addr::new(first, second, third, last)
    }

    fn bridge(&self) -> String {
        format!("{}br", self.prefix)
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    fn cable(&self, host: &str) -> String {
        format!("{}{host}", self.prefix)
    }

    /// The namespace that wires are in.
    fn middle(&self) -> String {
        format!("{}-wires", self.prefix)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.wires = None;
        // What was not made cannot be deleted; there is nobody to be told.
        for host in &self.hosts {
            ip(&format!("link del {}", self.cable(host))).ok();
            ip(&format!("netns del {}", self.namespace(host))).ok();
        }
        ip(&format!("netns del {}", self.middle())).ok();
        ip(&format!("link del {}", self.bridge())).ok();
    }
}

/// Moves the calling thread into a namespace: what it connects from here on, it connects from there.
///
/// # Panics
/// The operating system refuses.
pub fn enter(namespace: &PathBuf) {
    let file = File::open(namespace).expect("the namespace of a host");
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("whoever made it may enter it");
}

/// What a wire's end towards the bridge is called; the other is called as the host.
fn far_end(host: &str) -> String {
    format!("far-{host}")
}

/// Runs `ip`, which has to succeed.
fn change(arguments: &str) {
    ip(arguments).unwrap_or_else(|error| panic!("what was made cannot be changed: {error}"));
}

/// Runs `ip`.
fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("ip cannot be run: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
