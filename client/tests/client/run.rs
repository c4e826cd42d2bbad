//! Runs the built client.

use super::fake::{CLUSTER_ID, Replica};
use stablechat_authority::Authority;
use stablechat_protocol::name::{AccountName, ClusterName};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// After this a test fails: longer than all of the client's time limits.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Fake replicas, and a home directory with the cluster file and keys.
pub struct Cluster {
    pub replicas: Vec<Replica>,
    /// The authority that has made their certificates.
    pub authority: Authority,
    name: &'static str,
    home: tempfile::TempDir,
    /// Held by each [`Talk`] that runs.
    running: Arc<()>,
}

/// The output of a client, and its exit code.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Asserts that it printed exactly this, no remarks, and exited with 0.
    pub fn says(&self, expected: &str) {
        assert_eq!((self.out.as_str(), self.err.as_str(), self.code), (expected, "", 0));
    }

    /// Asserts its exit code, and that its remarks contain this text.
    pub fn fails(&self, code: i32, remark: &str) {
        assert!(self.code == code && self.err.contains(remark), "{self:?} is not {code} {remark:?}");
    }

    /// The printed lines, without their times.
    pub fn texts(&self) -> Vec<&str> {
        self.out.lines().map(|line| line.split_once("] ").map_or(line, |(_, text)| text)).collect()
    }
}

impl Cluster {
    /// Replicas a, b, … of the cluster `test`, with a delivery bound of 50 ms.
    pub fn start(count: usize) -> Cluster {
        Cluster::named("test", count)
    }

    /// The same, with another name.
    pub fn named(name: &'static str, count: usize) -> Cluster {
        let names = ["a", "b", "c"];
        let authority = Authority::create(&ClusterName::parse(name).expect("a name")).expect("random numbers");
        let replicas = names[..count].iter().map(|replica| Replica::start(name, replica, &authority)).collect();
        let home = tempfile::tempdir().expect("a directory");
        let cluster = Cluster { replicas, authority, name, home, running: Arc::default() };
        cluster.trust(cluster.authority.certificate());
        cluster
    }

    /// Writes the cluster file, with these authorities.
    pub fn trust(&self, authorities: &str) {
        let mut text = format!(
            "name = '{}'\nid = '{CLUSTER_ID}'\nca = '''\n{authorities}'''\ndelivery_bound_ms = 50\n",
            self.name
        );
        for replica in &self.replicas {
            text += &format!("[[replica]]\nname = '{}'\naddress = '{}'\n", replica.name, replica.address);
        }
        std::fs::write(self.path("cluster.toml"), text).expect("written");
    }

    /// A cluster in which these accounts exist, on all replicas.
    pub fn with_accounts(count: usize, names: &[&str]) -> Cluster {
        let cluster = Cluster::start(count);
        for name in names {
            cluster.run(&["create", name]).says(&format!("created {name}\n"));
            // The client may have been gone before it had reached every replica.
            let name = AccountName::parse(*name).expect("a name");
            let key = cluster.replicas.iter().find_map(|replica| replica.state().key(&name)).expect("it was created");
            cluster.replicas.iter().for_each(|replica| replica.state().create(&name, key));
        }
        cluster
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn key(&self, name: &str) -> PathBuf {
        self.path("keys").join(format!("{}@{CLUSTER_ID}", self.name)).join(format!("{name}.key"))
    }

    /// A client that has nothing on standard input.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stablechat"));
        command.args(arguments).env_clear().stdin(Stdio::null());
        command.env("HOME", self.home.path());
        command.env("STABLECHAT_CLUSTER", self.path("cluster.toml")).env("STABLECHAT_KEYS", self.path("keys"));
        command
    }

    /// Runs a client to its end.
    pub fn run(&self, arguments: &[&str]) -> Said {
        let said = finish(self.command(arguments));
        self.settle();
        said
    }

    /// Runs a client to its end, with `input` on a pipe.
    pub fn pipe(&self, arguments: &[&str], input: &[u8]) -> Said {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the client starts");
        let (mut stdin, input) = (child.stdin.take().expect("a pipe"), input.to_vec());
        // The write fails when the client exits early, which is no failure of the test.
        let writer = thread::spawn(move || drop(stdin.write_all(&input)));
        let said = Said::from(wait(child));
        writer.join().expect("it does not panic");
        self.settle();
        said
    }

    /// Runs a client to its end, with a file of this content as standard input.
    pub fn read(&self, arguments: &[&str], input: &[u8]) -> Said {
        let path = self.path("input");
        std::fs::write(&path, input).expect("written");
        let mut command = self.command(arguments);
        command.stdin(File::open(path).expect("just written"));
        let said = finish(command);
        self.settle();
        said
    }

    /// Waits until the replicas have read everything that ended clients have sent. A client ends at the first answer, and these replicas
    /// tell each other nothing.
    fn settle(&self) {
        let running = Arc::strong_count(&self.running) - 1;
        for replica in &self.replicas {
            wait_until("everything that ended clients have sent is read", || {
                let state = replica.state();
                state.manners.hangs || state.connections() <= running
            });
        }
    }

    /// Asserts that a replica has applied sends with these texts, and every other one the first of them: a client does not wait until
    /// all have read what it has sent, and these replicas pass nothing on.
    pub fn has_got<T: AsRef<str>>(&self, texts: &[T]) {
        self.settle();
        let got = self.replicas.iter().map(|replica| {
            let sent = replica.state().sent.clone();
            let same = sent.iter().zip(texts).take_while(|(sent, text)| *sent == text.as_ref()).count();
            assert_eq!(same, sent.len(), "the first send of {} that is wrong", replica.name);
            same
        });
        assert_eq!(got.max(), Some(texts.len()), "how many sends have arrived");
    }

    /// Starts a client, to exchange lines with it.
    pub fn talk(&self, arguments: &[&str]) -> Talk {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the client starts");
        let (sender, lines) = channel();
        let stdout = child.stdout.take().expect("a pipe");
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                if sender.send(line.expect("UTF-8")).is_err() {
                    break;
                }
            }
        });
        Talk { stdin: child.stdin.take(), child, lines, _running: self.running.clone() }
    }
}

/// A running client.
pub struct Talk {
    pub child: Child,
    pub stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// One of the clients of its cluster that run.
    _running: Arc<()>,
}

impl Talk {
    pub fn type_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("it is not closed");
        writeln!(stdin, "{line}").expect("the client reads");
    }

    /// The next line that it prints, without its time.
    pub fn line(&self) -> String {
        let line = self.lines.recv_timeout(LIMIT).expect("a line in time");
        line.split_once("] ").map_or(line.clone(), |(_, text)| text.to_string())
    }

    /// Closes its standard input and waits for its end. Returns the rest of its output.
    pub fn end(mut self) -> Said {
        drop(self.stdin.take());
        let mut said = Said::from(wait(self.child));
        said.out = self.lines.iter().map(|line| line + "\n").collect();
        said
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let code = output.status.code().expect("it ends by itself");
        Said { code, out: text(output.stdout), err: text(output.stderr) }
    }
}

/// Runs a client to its end.
pub fn finish(mut command: Command) -> Said {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the client starts");
    Said::from(wait(child))
}

/// Waits for a client to end, at most for [`LIMIT`].
pub fn wait(child: Child) -> Output {
    let id = child.id();
    let (sender, receiver) = channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(LIMIT) {
        Ok(output) => output.expect("it can be waited for"),
        Err(_) => {
            signal(id, "KILL");
            panic!("the client does not end");
        }
    }
}

pub fn signal(id: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &id.to_string()]).status().expect("kill is everywhere");
    assert!(status.success());
}

/// Waits until a condition holds, at most for [`LIMIT`].
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < limit, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The permission bits of a file.
pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).expect("it exists").mode() & 0o777
}

/// Runs something again until it takes less than this, and returns what it said then. A wait of that length in it makes every
/// attempt too long; a machine that is busy does so only now and then.
pub fn run_within(limit: Duration, run: impl Fn() -> Said) -> Said {
    for _ in 0..10 {
        let began = Instant::now();
        let said = run();
        if began.elapsed() < limit {
            return said;
        }
    }
    panic!("each of ten attempts took {limit:?} and more");
}
