//! A network of namespaces (Linux): a host for each replica, all on one bridge, whose cables can be pulled.
//!
//! A cable is pulled at the bridge's end, so that a host still reaches itself. A thread can move into a host, and what it
//! connects from there takes that host's cable.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;

/// The port at which replicas listen.
const PORT: u16 = 7400;

/// A bridge, and hosts on it. All is gone when it is dropped.
pub struct Network {
    /// What its interfaces and namespaces are called: this, and the host's name.
    prefix: String,
    hosts: Vec<String>,
    /// The first three bytes of all addresses.
    subnet: [u8; 3],
}

impl Network {
    /// Makes a network with hosts of these names.
    ///
    /// # Errors
    /// Why this machine does not let us.
    pub fn new(hosts: &[&str]) -> Result<Network, String> {
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        let prefix = format!("sc{:x}", std::process::id());
        // Somewhere in 10.0.0.0/8, by the number of our process.
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let network = Network { prefix, hosts, subnet: [10, middle ^ high ^ 0x55, low] };
        network.make()?;
        Ok(network)
    }

    fn make(&self) -> Result<(), String> {
        let (bridge, ours) = (self.bridge(), self.ip(254));
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("addr add {ours}/24 dev {bridge}"))?;
        ip(&format!("link set {bridge} up"))?;
        for (host, number) in self.hosts.iter().zip(1..) {
            let (namespace, cable, address) = (self.namespace(host), self.cable(host), self.ip(number));
            ip(&format!("netns add {namespace}"))?;
            ip(&format!("link add {cable} type veth peer name eth0 netns {namespace}"))?;
            ip(&format!("link set {cable} master {bridge} up"))?;
            ip(&format!("-n {namespace} addr add {address}/24 dev eth0"))?;
            ip(&format!("-n {namespace} link set eth0 up"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
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
        ip(&format!("link set {} down", self.cable(host))).expect("what was made can be changed");
    }

    /// Plugs the cable of a host in again.
    pub fn mend(&self, host: &str) {
        ip(&format!("link set {} up", self.cable(host))).expect("what was made can be changed");
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
}

impl Drop for Network {
    fn drop(&mut self) {
        // What was not made cannot be deleted; there is nobody to be told.
        for host in &self.hosts {
            ip(&format!("link del {}", self.cable(host))).ok();
            ip(&format!("netns del {}", self.namespace(host))).ok();
        }
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

/// Runs `ip`.
fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("ip cannot be run: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
