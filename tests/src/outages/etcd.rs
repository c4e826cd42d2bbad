//! etcd, called by clients that put a value under a key of their own, over its JSON gateway. A call fails that is refused, or
//! has no answer within a second.

use super::calls::{Call, Caller, Clients, Pace};
use super::nodes::Nodes;
use super::{Fault, Service};
use crate::wait::{wait_for, wait_until};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

/// How long a client waits for a connection, and for an answer. A request that a member has passed on to a leader that then died is
/// answered after seconds, with an error; a client that waited for that would lose more than by trying again.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
const WHOLE: Duration = Duration::from_secs(120);

/// A cluster of three members.
pub struct Etcd {
    nodes: Nodes,
    /// Where clients reach each member.
    addresses: [SocketAddr; 3],
    clients: Option<Clients>,
    leader: usize,
}

impl Etcd {
    /// Starts it, with the settings that it has by default.
    ///
    /// # Errors
    /// It is not installed.
    pub fn start() -> Result<Etcd, String> {
        Command::new("etcd").arg("--version").output().map_err(|error| format!("etcd cannot be run: {error}"))?;
        let (addresses, peers) = (super::nodes::free_addresses(), super::nodes::free_addresses());
        let all: Vec<String> = (0..3).map(|number| format!("n{number}=http://{}", peers[number])).collect();
        let all = all.join(",");
        let nodes = Nodes::start(move |number, directory| {
            let (client, peer) = (format!("http://{}", addresses[number]), format!("http://{}", peers[number]));
            let mut command = Command::new("etcd");
            command.args(["--name", &format!("n{number}"), "--initial-cluster", &all, "--data-dir"]).arg(directory);
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command
        });
        let mut etcd = Etcd { nodes, addresses, clients: None, leader: 0 };
        etcd.wait_until_whole();
        Ok(etcd)
    }

    /// Waits until all members know the same leader, and returns it.
    fn wait_until_whole(&mut self) {
        self.leader = wait_for("etcd has a leader", WHOLE, || {
            let statuses: Vec<Value> = self.addresses.iter().filter_map(|address| status(*address).ok()).collect();
            let leader = |status: &Value| status["leader"].as_str().map(ToString::to_string);
            let first = leader(statuses.first()?)?;
            let is_whole = statuses.len() == 3 && statuses.iter().all(|status| leader(status).as_ref() == Some(&first));
            let is_leader = |status: &Value| status["header"]["member_id"].as_str() == Some(&first);
            statuses.iter().position(is_leader).filter(|_| is_whole)
        });
        wait_until("etcd takes writes at each member", WHOLE, || {
            self.addresses.iter().all(|address| EtcdCaller::new(vec![*address], 0).call().is_ok())
        });
    }
}

/// The status of a member.
fn status(address: SocketAddr) -> io::Result<Value> {
    let mut stream = connect(address)?;
    let (_, body) = post(&mut stream, "/v3/maintenance/status", "{}")?;
    Ok(serde_json::from_slice(&body)?)
}

impl Service for Etcd {
    fn name(&self) -> String {
        let version = Command::new("etcd").arg("--version").output().map(|output| output.stdout).unwrap_or_default();
        let version = String::from_utf8_lossy(&version);
        format!("etcd {}", version.lines().next().and_then(|line| line.rsplit(' ').next()).unwrap_or_default())
    }

    fn faults(&self) -> Vec<Fault> {
        super::nodes::FAULTS.to_vec()
    }

    fn watch(&self) -> Duration {
        super::nodes::WATCH
    }

    fn start_clients(&mut self, paces: Vec<Pace>) {
        let caller = |number: usize| {
            let mut addresses = self.addresses.to_vec();
            addresses.rotate_left(number % 3);
            Box::new(EtcdCaller::new(addresses, number)) as Box<dyn Caller>
        };
        self.clients =
            Some(Clients::start(paces.into_iter().enumerate().map(|(number, pace)| (caller(number), pace)).collect()));
    }

    fn stop_clients(&mut self) -> Vec<Call> {
        self.clients.take().map(Clients::stop).unwrap_or_default()
    }

    fn hurt(&mut self, fault: Fault) {
        self.nodes.hurt(self.leader, fault);
    }

    fn mend(&mut self) {
        self.nodes.mend();
        self.wait_until_whole();
    }
}

/// A client with a connection to one member.
struct EtcdCaller {
    addresses: Vec<SocketAddr>,
    /// Which of the addresses it uses.
    current: usize,
    stream: Option<BufReader<TcpStream>>,
    body: String,
}

impl EtcdCaller {
    fn new(addresses: Vec<SocketAddr>, number: usize) -> EtcdCaller {
        // Keys and values are in base64; any text of letters whose length is a multiple of four is.
        let body = format!("{{\"key\":\"key{:05}\",\"value\":\"{}\"}}", number, "x".repeat(132));
        EtcdCaller { addresses, current: 0, stream: None, body }
    }

    fn put(&mut self) -> io::Result<()> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.addresses[self.current])?,
        };
        let (status, body) = post(&mut stream, "/v3/kv/put", &self.body)?;
        if status != 200 {
            return Err(io::Error::other(format!("{status}: {}", String::from_utf8_lossy(&body))));
        }
        self.stream = Some(stream);
        Ok(())
    }
}

impl Caller for EtcdCaller {
    fn call(&mut self) -> Result<(), String> {
        self.put().map_err(|error| {
            self.current = (self.current + 1) % self.addresses.len();
            error.to_string()
        })
    }
}

fn connect(address: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_LIMIT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    Ok(BufReader::new(stream))
}

/// A request over HTTP, and its answer: the status and the body.
fn post(stream: &mut BufReader<TcpStream>, path: &str, body: &str) -> io::Result<(u16, Vec<u8>)> {
    let request = format!("POST {path} HTTP/1.1\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.get_mut().write_all(request.as_bytes())?;
    let status = line(stream)?;
    let status = status.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let (mut length, mut is_chunked) = (0, false);
    loop {
        let header = line(stream)?.to_ascii_lowercase();
        match header.split_once(": ") {
            None => break,
            Some(("content-length", text)) => length = text.parse().map_err(io::Error::other)?,
            Some(("transfer-encoding", "chunked")) => is_chunked = true,
            Some(_) => {}
        }
    }
    let mut body = Vec::new();
    loop {
        if is_chunked {
            length = usize::from_str_radix(&line(stream)?, 16).map_err(io::Error::other)?;
        }
        let before = body.len();
        body.resize(before + length, 0);
        stream.read_exact(&mut body[before..])?;
        if is_chunked {
            line(stream)?;
        }
        if !is_chunked || length == 0 {
            return Ok((status, body));
        }
    }
}

/// A line without its end.
fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    match stream.read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_string()),
    }
}
