//! A network of Linux network namespaces: a host for each replica, each joined to one bridge by a cable that can be pulled.
//!
//! A cable is pulled at the bridge's end, so that a host still reaches itself. A thread can move into a host's namespace; the
//! connections that it opens there use that host's cable. A cable may have a wire in its middle that delays frames and loses
//! some (`wires`); `measuring` measures the effect.

mod measuring;
mod wires;

pub use measuring::PathMeasurement;
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

/// Held by the network of this process; there is one at a time. Its names and addresses are made from the process's number, and
/// two clusters at a time would slow each other down in tests that look at times.
static TURN: Mutex<()> = Mutex::new(());

/// A bridge, and hosts on it. Dropping it removes them from the system.
pub struct Network {
    /// The names of its interfaces and namespaces are this and the host's name.
    prefix: String,
    hosts: Vec<String>,
    /// The first three bytes of all IP addresses.
    subnet: [u8; 3],
    /// The wires in its cables, if the cables have wires.
    wires: Option<Wires>,
    /// The last field, so that it is dropped after the rest.
    _turn: MutexGuard<'static, ()>,
}

impl Network {
    /// Makes a network with hosts of these names.
    ///
    /// # Errors
    /// This machine does not allow bridges or namespaces.
    pub fn new(hosts: &[&str]) -> Result<Network, String> {
        let network = Network::unmade(hosts);
        network.make(|host| {
            let (cable, namespace) = (network.cable(host), network.namespace(host));
            change(&format!("link add name {cable} type veth peer name eth0 netns {namespace}"));
        })?;
        Ok(network)
    }

    /// Makes a network with hosts of these names, and a wire in each cable. The wires are in a namespace of their own, so that no
    /// other interface of this machine answers ARP queries for the hosts' addresses.
    ///
    /// # Errors
    /// This machine does not allow bridges or namespaces.
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
            // No segmentation offload: a wire loses single frames, not large ones that are cut into many behind it.
            change(&format!("-n {namespace} link set eth0 gso_max_segs 1"));
        })?;
        network.wires = Some(Wires::lay(&middle, network.hosts.iter().map(|host| (host.clone(), far_end(host)))));
        Ok(network)
    }

    fn unmade(hosts: &[&str]) -> Network {
        // A test that panicked has dropped its network all the same, so a poisoned lock is as good as any.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        let prefix = format!("sc{:x}", std::process::id());
        // Somewhere in 10.0.0.0/8, by the number of this process.
        let subnet = [10, middle ^ high ^ 0x55, low];
        Network { prefix, hosts: hosts.iter().map(ToString::to_string).collect(), subnet, wires: None, _turn: turn }
    }

    /// Makes the bridge and the hosts' namespaces, and each host's cable with `lay_cable`. Only the first steps return errors: a
    /// machine that allows a bridge and namespaces allows the rest.
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

    /// The address at which the replica on a host listens.
    pub fn address(&self, host: &str) -> SocketAddr {
        let place = self.hosts.iter().position(|name| name == host).expect("a host of this network");
        SocketAddr::V4(SocketAddrV4::new(self.ip(place as u8 + 1), PORT))
    }

    /// A command that runs `command` on a host. `ip netns exec` replaces itself with it, so signals reach the process.
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

    /// Pulls the cable of a host, and refuses connections in its name: this machine takes its address, and nobody listens there. Like
    /// a firewall that resets the connections that it does not let through.
    pub fn refuse_for(&self, host: &str) {
        self.cut(host);
        change(&format!("addr add {}/32 dev {}", self.address(host).ip(), self.bridge()));
        self.forget_neighbors();
    }

    /// Undoes [`Network::refuse_for`].
    pub fn admit(&self, host: &str) {
        change(&format!("addr del {}/32 dev {}", self.address(host).ip(), self.bridge()));
        self.mend(host);
        self.forget_neighbors();
    }

    /// Lets all hosts look up anew which of them has which address.
    fn forget_neighbors(&self) {
        change(&format!("neigh flush dev {}", self.bridge()));
        self.hosts.iter().for_each(|host| change(&format!("-n {} neigh flush dev eth0", self.namespace(host))));
    }

    /// Changes the wire in a host's cable, from now on.
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

    /// The namespace of the wires.
    fn middle(&self) -> String {
        format!("{}-wires", self.prefix)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.wires = None;
        // Errors are ignored: after a failure of `make` some of these do not exist.
        for host in &self.hosts {
            ip(&format!("link del {}", self.cable(host))).ok();
            ip(&format!("netns del {}", self.namespace(host))).ok();
        }
        ip(&format!("netns del {}", self.middle())).ok();
        ip(&format!("link del {}", self.bridge())).ok();
    }
}

/// Moves the calling thread into a namespace: sockets that it opens from now on are in that namespace.
///
/// # Panics
/// The operating system refuses.
pub fn enter(namespace: &PathBuf) {
    let file = File::open(namespace).expect("the namespace of a host");
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("a process that can make namespaces can enter them");
}

/// The name of the wire's end towards the bridge. The other end is named like the host.
fn far_end(host: &str) -> String {
    format!("far-{host}")
}

/// Runs `ip` on something that exists; a failure is a panic.
fn change(arguments: &str) {
    ip(arguments).unwrap_or_else(|error| panic!("cannot set up the network: {error}"));
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
