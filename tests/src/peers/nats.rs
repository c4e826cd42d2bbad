//! NATS with JetStream: three servers, and a stream with three replicas in files. Servers sync their files every two minutes, so an
//! answer says that two of them have the message in memory.

use super::{Dialect, Peer, first_line, refused};
use crate::outages::nodes::{Nodes, free_addresses};
use crate::wait::wait_for;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

/// How long the servers may take to make the stream.
const WHOLE: Duration = Duration::from_secs(60);
/// How long a server may take to answer while the stream is made.
const PATIENCE: Duration = Duration::from_secs(5);

/// The stream, and the subject of its messages.
const STREAM: &str =
    "{\"name\":\"chat\",\"subjects\":[\"chat\"],\"num_replicas\":3,\"storage\":\"file\",\"retention\":\"limits\"}";

/// NATS, in the version that is installed.
pub struct Nats {
    addresses: [SocketAddr; 3],
    /// Held until the end.
    _nodes: Nodes,
}

impl Nats {
    /// Starts three servers and makes the stream.
    ///
    /// # Errors
    /// It is not installed.
    pub fn start() -> Result<Nats, String> {
        version()?;
        let (addresses, routes) = (free_addresses(), free_addresses());
        let all = routes.map(|route| format!("nats://{route}")).join(",");
        let nodes = Nodes::start(move |number, directory| {
            let mut command = Command::new("nats-server");
            command.args(["--addr", "127.0.0.1", "--port", &addresses[number].port().to_string()]);
            command.args(["--server_name", &format!("n{number}"), "--jetstream", "--store_dir"]).arg(directory);
            command.args([
                "--cluster_name",
                "chat",
                "--cluster",
                &format!("nats://{}", routes[number]),
                "--routes",
                &all,
            ]);
            command
        });
        wait_for("NATS has made the stream", WHOLE, || make_stream(addresses[0]).ok());
        Ok(Nats { addresses, _nodes: nodes })
    }
}

impl Peer for Nats {
    fn name(&self) -> String {
        format!("NATS {}, R3, no sync", version().unwrap_or_default())
    }

    fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    fn window(&self) -> usize {
        usize::MAX
    }

    fn dialect(&self, number: usize) -> Box<dyn Dialect> {
        Box::new(NatsDialect { inbox: format!("_INBOX.{number}.") })
    }
}

/// The version that is installed.
fn version() -> Result<String, String> {
    let output = Command::new("nats-server").arg("--version").output();
    let output = output.map_err(|error| format!("nats-server cannot be run: {error}"))?.stdout;
    let output = String::from_utf8_lossy(&output).to_string();
    Ok(output.trim().rsplit(' ').next().unwrap_or_default().trim_start_matches('v').into())
}

/// Makes the stream.
fn make_stream(address: SocketAddr) -> io::Result<()> {
    let mut stream = BufReader::new(TcpStream::connect(address)?);
    stream.get_mut().set_read_timeout(Some(PATIENCE))?;
    let subject = "$JS.API.STREAM.CREATE.chat";
    let request = format!("SUB made 1\r\nPUB {subject} made {}\r\n{STREAM}\r\n", STREAM.len());
    stream.get_mut().write_all(format!("CONNECT {{\"verbose\":false}}\r\n{request}").as_bytes())?;
    let mut line = String::new();
    while !line.starts_with("MSG made") {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    line.clear();
    stream.read_line(&mut line)?;
    match line.contains("\"error\"") {
        true => Err(refused(line.as_bytes())),
        false => Ok(()),
    }
}

struct NatsDialect {
    /// The beginning of the subjects of answers, which end with the number of the request.
    inbox: String,
}

impl Dialect for NatsDialect {
    fn greeting(&self) -> Vec<u8> {
        format!("CONNECT {{\"verbose\":false}}\r\nSUB {}* 1\r\n", self.inbox).into_bytes()
    }

    fn request(&mut self, number: u64, text: &str, outgoing: &mut Vec<u8>) {
        outgoing.extend(format!("PUB chat {}{number} {}\r\n{text}\r\n", self.inbox, text.len()).as_bytes());
    }

    fn take(&mut self, incoming: &[u8], outgoing: &mut Vec<u8>, answered: &mut Vec<u64>) -> io::Result<usize> {
        let mut taken = 0;
        while let Some((line, mut length)) = first_line(&incoming[taken..]) {
            if line == b"PING" {
                outgoing.extend(b"PONG\r\n");
            } else if line.starts_with(b"MSG ") {
                let (number, body) = self.answer_of(line).ok_or_else(|| refused(line))?;
                let Some(text) = incoming[taken..].get(length..length + body + 2) else { break };
                if !text.starts_with(b"{\"stream\"") {
                    return Err(refused(text));
                }
                answered.push(number);
                length += text.len();
            } else if !line.starts_with(b"INFO ") && line != b"PONG" {
                return Err(refused(line));
            }
            taken += length;
        }
        Ok(taken)
    }
}

impl NatsDialect {
    /// The number of the request that a message answers, and how long the message is.
    fn answer_of(&self, line: &[u8]) -> Option<(u64, usize)> {
        let mut words = std::str::from_utf8(line).ok()?.split(' ').skip(1);
        let number = words.next()?.strip_prefix(&self.inbox)?.parse().ok()?;
        Some((number, words.last()?.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_name_their_requests_and_pings_are_answered() {
        let mut dialect = NatsDialect { inbox: "_INBOX.3.".into() };
        let (mut outgoing, mut answered) = (Vec::new(), Vec::new());
        dialect.request(7, "hello", &mut outgoing);
        assert_eq!(outgoing, b"PUB chat _INBOX.3.7 5\r\nhello\r\n");
        outgoing.clear();
        let answer = b"MSG _INBOX.3.7 1 26\r\n{\"stream\":\"chat\",\"seq\":12}\r\n";
        let mut take = |incoming: &[u8]| dialect.take(incoming, &mut outgoing, &mut answered);
        let (before, half) = (b"INFO {}\r\nPING\r\n", &answer[..30]);
        assert_eq!(take(&[before, half].concat()).ok(), Some(before.len()));
        assert_eq!(take(answer).ok(), Some(answer.len()));
        assert!(take(b"-ERR 'no'\r\n").is_err_and(|error| error.to_string().contains("no")));
        assert_eq!((&outgoing[..], answered), (&b"PONG\r\n"[..], vec![7]));
    }
}
