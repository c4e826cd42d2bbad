//! etcd, called by clients that put a value under a key of their own, over its JSON gateway. A call fails that is refused, or
//! has no answer within a second.

use super::calls::Caller;
use super::nodes::{Foreign, Nodes, Product, connect, free_addresses};
use crate::wait::{wait_for, wait_until};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

/// How long a cluster may take to be whole.
const WHOLE: Duration = Duration::from_secs(120);

/// etcd, in the version that is installed.
pub struct Etcd;

impl Etcd {
    /// Starts three members, with the settings that they have by default.
    ///
    /// # Errors
    /// It is not installed.
    pub fn start() -> Result<Foreign<Etcd>, String> {
        Command::new("etcd").arg("--version").output().map_err(|error| format!("etcd cannot be run: {error}"))?;
        let (addresses, peers) = (free_addresses(), free_addresses());
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
        Ok(Foreign::new(Etcd, nodes, addresses))
    }
}

impl Product for Etcd {
    fn name(&self) -> String {
        format!("etcd {}", version())
    }

    fn caller(&self, addresses: Vec<SocketAddr>, number: usize) -> Box<dyn Caller> {
        Box::new(EtcdCaller::new(addresses, number))
    }

    fn wait_until_whole(&self, addresses: &[SocketAddr; 3]) -> usize {
        let leader = wait_for("etcd has a leader", WHOLE, || {
            let statuses: Vec<Value> = addresses.iter().filter_map(|address| status(*address).ok()).collect();
            let leader = |status: &Value| status["leader"].as_str().map(ToString::to_string);
            let first = leader(statuses.first()?)?;
            let is_whole = statuses.len() == 3 && statuses.iter().all(|status| leader(status).as_ref() == Some(&first));
            let is_leader = |status: &Value| status["header"]["member_id"].as_str() == Some(&first);
            statuses.iter().position(is_leader).filter(|_| is_whole)
        });
        wait_until("etcd takes writes at each member", WHOLE, || {
            addresses.iter().all(|address| EtcdCaller::new(vec![*address], 0).call().is_ok())
        });
        leader
    }
}

/// The version that is installed; empty when none is.
pub fn version() -> String {
    let version = Command::new("etcd").arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    let version = String::from_utf8_lossy(&version);
    version.lines().next().and_then(|line| line.rsplit(' ').next()).unwrap_or_default().into()
}

/// The status of a member.
fn status(address: SocketAddr) -> io::Result<Value> {
    let mut stream = connect(address)?;
    let (_, body) = post(&mut stream, "/v3/maintenance/status", "{}")?;
    Ok(serde_json::from_slice(&body)?)
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
