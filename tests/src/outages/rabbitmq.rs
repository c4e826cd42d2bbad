//! RabbitMQ, called by clients that publish to one quorum queue, each message with a confirmation, over STOMP.

use super::calls::Caller;
use super::nodes::{Foreign, Nodes, Product, connect, free_addresses};
use crate::wait::wait_for;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Debian's programs, without the wrapper that changes the user.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";
/// How long a cluster may take to be whole.
const WHOLE: Duration = Duration::from_secs(180);

/// RabbitMQ, in the version that is installed, with a quorum queue.
pub struct Rabbitmq {
    /// The directory of the cookie by which nodes and tools know each other.
    home: TempDir,
}

impl Rabbitmq {
    /// Starts three nodes, with the settings that they have by default.
    ///
    /// # Errors
    /// It is not installed.
    pub fn start() -> Result<Foreign<Rabbitmq>, String> {
        let server = PathBuf::from(PROGRAMS).join("rabbitmq-server");
        if !server.exists() {
            return Err(format!("{} is not installed", server.display()));
        }
        let home = tempfile::Builder::new().prefix("stablechat-peers-").tempdir();
        let home = home.map_err(|error| error.to_string())?;
        let (addresses, ports, links) = (free_addresses(), free_addresses(), free_addresses());
        let shared = home.path().to_path_buf();
        let nodes = Nodes::start(move |number, directory| {
            let file = configuration(directory, addresses[number]);
            let mut command = Command::new(&server);
            command.env("HOME", &shared).env("RUNNING_UNDER_SYSTEMD", "1").env("RABBITMQ_CONFIG_FILE", file);
            command.env("RABBITMQ_NODENAME", node(number)).env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1");
            command.env("RABBITMQ_NODE_PORT", ports[number].port().to_string());
            command.env("RABBITMQ_DIST_PORT", links[number].port().to_string());
            command.env("RABBITMQ_MNESIA_BASE", directory.join("data")).env("RABBITMQ_LOG_BASE", directory.join("log"));
            command.env("RABBITMQ_ENABLED_PLUGINS_FILE", directory.join("plugins"));
            command
        });
        let rabbitmq = Rabbitmq { home };
        rabbitmq.declare(&addresses);
        Ok(Foreign::new(rabbitmq, nodes, addresses))
    }

    /// Declares the queue, once all nodes are there to have a copy of it.
    fn declare(&self, addresses: &[SocketAddr; 3]) {
        wait_for("RabbitMQ's nodes form a cluster", WHOLE, || {
            let running = self.ask("rabbitmqctl", 0, &["cluster_status"])?;
            (running["running_nodes"].as_array()?.len() == 3).then_some(())
        });
        let mut client = RabbitmqCaller::new(addresses.to_vec());
        client.headers = "destination:/queue/bench\nx-queue-type:quorum\ndurable:true\nauto-delete:false\n\
                          x-max-length:100000\n"
            .into();
        client.call().expect("RabbitMQ declares a queue");
    }

    /// The answer of one of RabbitMQ's tools, in JSON.
    fn ask(&self, tool: &str, number: usize, arguments: &[&str]) -> Option<Value> {
        let mut command = Command::new(Path::new(PROGRAMS).join(tool));
        command.env("HOME", self.home.path()).args(["--node", &node(number), "--formatter", "json", "--quiet"]);
        let output = command.args(arguments).stdin(Stdio::null()).output().ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }
}

fn node(number: usize) -> String {
    format!("n{number}@localhost")
}

/// Writes a node's configuration. Returns its path.
fn configuration(directory: &Path, address: SocketAddr) -> PathBuf {
    let mut text = format!("stomp.listeners.tcp.1 = {address}\n");
    text += "cluster_formation.peer_discovery_backend = classic_config\n";
    for number in 0..3 {
        writeln!(text, "cluster_formation.classic_config.nodes.{} = {}", number + 1, node(number))
            .expect("writing to a string does not fail");
    }
    let file = directory.join("rabbitmq.conf");
    std::fs::write(&file, text).expect("temporary files can be written");
    std::fs::write(directory.join("plugins"), "[rabbitmq_stomp].\n").expect("temporary files can be written");
    file
}

impl Product for Rabbitmq {
    fn name(&self) -> String {
        let version = self.ask("rabbitmqctl", 0, &["version"]);
        let version = version.as_ref().and_then(|version| version["value"]["version"].as_str()).unwrap_or_default();
        format!("RabbitMQ {version}")
    }

    fn caller(&self, addresses: Vec<SocketAddr>, _: usize) -> Box<dyn Caller> {
        Box::new(RabbitmqCaller::new(addresses))
    }

    fn wait_until_whole(&self, addresses: &[SocketAddr; 3]) -> usize {
        wait_for("RabbitMQ is whole", WHOLE, || {
            let all_answer = addresses.iter().all(|address| RabbitmqCaller::new(vec![*address]).call().is_ok());
            let queues =
                self.ask("rabbitmqctl", 0, &["list_queues", "name", "leader", "online"]).filter(|_| all_answer)?;
            let queue = queues.get(0)?;
            let is_whole = queue["online"].as_array()?.len() == 3;
            let leader = queue["leader"].as_str()?;
            (0..3).find(|number| node(*number) == leader).filter(|_| is_whole)
        })
    }
}

/// A client with a connection to one node.
struct RabbitmqCaller {
    addresses: Vec<SocketAddr>,
    /// Which of the addresses it uses.
    current: usize,
    stream: Option<BufReader<TcpStream>>,
    /// The number of the last message.
    number: u64,
    headers: String,
}

impl RabbitmqCaller {
    fn new(addresses: Vec<SocketAddr>) -> RabbitmqCaller {
        let headers = "destination:/amq/queue/bench\n".to_string();
        RabbitmqCaller { addresses, current: 0, stream: None, number: 0, headers }
    }

    fn publish(&mut self) -> io::Result<()> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => log_in(self.addresses[self.current])?,
        };
        self.number += 1;
        let (headers, number, text) = (&self.headers, self.number, "x".repeat(100));
        let frame = format!("SEND\n{headers}persistent:true\nreceipt:{number}\n\n{text}\0");
        stream.get_mut().write_all(frame.as_bytes())?;
        let answer = read_frame(&mut stream)?;
        if !answer.starts_with("RECEIPT") || !answer.contains(&format!("receipt-id:{number}\n")) {
            return Err(io::Error::other(answer));
        }
        self.stream = Some(stream);
        Ok(())
    }
}

impl Caller for RabbitmqCaller {
    fn call(&mut self) -> Result<(), String> {
        self.publish().map_err(|error| {
            self.current = (self.current + 1) % self.addresses.len();
            error.to_string()
        })
    }
}

/// A connection that is logged in.
fn log_in(address: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let mut stream = connect(address)?;
    stream.get_mut().write_all(b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0")?;
    let answer = read_frame(&mut stream)?;
    match answer.starts_with("CONNECTED") {
        true => Ok(stream),
        false => Err(io::Error::other(answer)),
    }
}

/// A frame, without the newlines that may follow the one before.
fn read_frame(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut bytes = Vec::new();
    if stream.read_until(0, &mut bytes)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&bytes).trim_start().to_string())
}
