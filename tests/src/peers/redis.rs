//! Redis: a master and two replicas, which write each command to an append-only file and sync that before they answer. A client
//! that sends `WAIT 2` after its command is answered when both replicas have it.

use super::{Dialect, Peer, first_line, refused};
use crate::outages::nodes::{Nodes, free_addresses};
use crate::wait::wait_until;
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

/// How long the replicas may take to follow.
const WHOLE: Duration = Duration::from_secs(60);

/// Redis, in the version that is installed.
pub struct Redis {
    addresses: [SocketAddr; 3],
    /// Held until the end.
    _nodes: Nodes,
}

impl Redis {
    /// Starts a master and two replicas.
    ///
    /// # Errors
    /// It is not installed.
    pub fn start() -> Result<Redis, String> {
        version()?;
        let addresses = free_addresses();
        let nodes = Nodes::start(move |number, directory| {
            let mut command = Command::new("redis-server");
            command
                .args(["--bind", "127.0.0.1", "--port", &addresses[number].port().to_string(), "--dir"])
                .arg(directory);
            command.args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
            if number > 0 {
                command.args(["--replicaof", "127.0.0.1", &addresses[0].port().to_string()]);
            }
            command
        });
        wait_until("both replicas of Redis follow", WHOLE, || {
            connected_replicas(addresses[0]).is_ok_and(|count| count == 2)
        });
        Ok(Redis { addresses, _nodes: nodes })
    }
}

impl Peer for Redis {
    fn name(&self) -> String {
        format!("Redis {}, AOF always, WAIT 2", version().unwrap_or_default())
    }

    fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// A connection is blocked while it waits for the replicas.
    fn window(&self) -> usize {
        1
    }

    fn dialect(&self, number: usize) -> Box<dyn Dialect> {
        Box::new(RedisDialect { number, waiting: VecDeque::new() })
    }
}

/// The version that is installed.
fn version() -> Result<String, String> {
    let output = Command::new("redis-server").arg("--version").output();
    let output = output.map_err(|error| format!("redis-server cannot be run: {error}"))?.stdout;
    let output = String::from_utf8_lossy(&output).to_string();
    Ok(output.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or_default().into())
}

/// How many replicas follow the master, by its own account.
fn connected_replicas(master: SocketAddr) -> io::Result<usize> {
    let mut stream = BufReader::new(TcpStream::connect(master)?);
    stream.get_mut().write_all(b"INFO replication\r\n")?;
    let online = |line: &String| line.starts_with("slave") && line.contains("state=online");
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let is_last = line.starts_with("repl_backlog_histlen");
        lines.push(line);
        if is_last {
            return Ok(lines.iter().filter(|line| online(line)).count());
        }
    }
}

struct RedisDialect {
    /// The number of the connection, so that keys differ.
    number: usize,
    /// The requests without an answer.
    waiting: VecDeque<u64>,
}

impl Dialect for RedisDialect {
    fn greeting(&self) -> Vec<u8> {
        Vec::new()
    }

    fn request(&mut self, number: u64, text: &str, outgoing: &mut Vec<u8>) {
        let key = format!("{}:{number}", self.number);
        let set = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n{text}\r\n", key.len(), text.len());
        outgoing.extend(set.as_bytes());
        outgoing.extend(b"*3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n$1\r\n0\r\n");
        self.waiting.push_back(number);
    }

    fn take(&mut self, incoming: &[u8], _: &mut Vec<u8>, answered: &mut Vec<u64>) -> io::Result<usize> {
        let mut taken = 0;
        while let Some((line, length)) = first_line(&incoming[taken..]) {
            match line {
                b"+OK" => {}
                b":2" => answered.extend(self.waiting.pop_front()),
                other => return Err(refused(other)),
            }
            taken += length;
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_stored_when_both_replicas_have_it() {
        let mut dialect = RedisDialect { number: 3, waiting: VecDeque::new() };
        let (mut outgoing, mut answered) = (Vec::new(), Vec::new());
        dialect.request(7, "hello", &mut outgoing);
        let text = String::from_utf8(outgoing).expect("text");
        assert!(text.starts_with("*3\r\n$3\r\nSET\r\n$3\r\n3:7\r\n$5\r\nhello\r\n*3\r\n$4\r\nWAIT\r\n"), "{text}");
        let mut take = |incoming: &[u8]| dialect.take(incoming, &mut Vec::new(), &mut answered);
        assert_eq!(take(b"+OK\r\n:").ok(), Some(5), "half of an answer");
        assert_eq!(take(b":2\r\n").ok(), Some(4));
        assert!(take(b"-ERR no\r\n").is_err_and(|error| error.to_string().contains("-ERR no")));
        assert_eq!(answered, [7]);
    }
}
