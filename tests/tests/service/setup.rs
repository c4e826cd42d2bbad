//! How a cluster is set up, and how its replicas are run by systemd.

use rustix::process::Signal;
use stablechat_protocol::cluster::Cluster as ClusterFile;
use stablechat_protocol::key_file::read_key;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::operator::{InitialSettings, InvitationCode, Registration};
use stablechat_tests::cluster::Cluster;
use stablechat_tests::process::{Program, built, run_to_end};
use stablechat_tests::wait::{SOON, wait_for};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const DELIVERY_BOUND: Duration = Duration::from_millis(200);

/// Runs `stablechatd init`, and returns its exit status and output.
fn init(directory: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(built("stablechatd"));
    command.arg("init").arg("--dir").arg(directory).args(options);
    run_to_end(command)
}

/// The exit code, and standard error.
fn failure(output: Output) -> (Option<i32>, String) {
    assert!(output.stdout.is_empty());
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The files below a directory, with their contents.
fn files(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(file, text)| (format!("{name}/{file}"), text)));
        } else {
            found.insert(name, std::fs::read_to_string(path).expect("a text"));
        }
    }
    found
}

#[test]
fn init_writes_what_each_machine_needs_and_overwrites_nothing() {
    let room = tempfile::tempdir().expect("temporary files can be made");
    let directory = room.path().join("demo");
    let options = ["--replica", "a=10.0.0.1:7400", "--replica", "b=[::1]:7400", "--name", "chat"];
    let output = init(&directory, &[&options[..], &["--delivery-bound-ms", "500"]].concat());
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
    let said = String::from_utf8_lossy(&output.stdout);
    for says in [
        "the cluster chat",
        "delivery bound 500 ms",
        "/replica-a root@10.0.0.1:/etc/stablechat/a\n",
        "/replica-b root@[::1]:/etc/stablechat/b\n    ssh root@::1 systemctl enable --now stablechatd@b\n",
        "/clients/cluster.toml ~/.config/stablechat/cluster.toml",
        "/operator.key ~/.local/share/stablechat/keys/chat@",
        "\n    stablechat create NAME --invitation ",
    ] {
        assert!(said.contains(says), "it lacks {says:?}: {said}");
    }

    let written = files(&directory);
    let names: Vec<&str> = written.keys().map(String::as_str).collect();
    let expected = [
        "authority.pem",
        "clients/cluster.toml",
        "operator.key",
        "replica-a/cluster.toml",
        "replica-a/environment",
        "replica-a/identity.pem",
        "replica-b/cluster.toml",
        "replica-b/environment",
        "replica-b/identity.pem",
    ];
    assert_eq!(names, expected);
    let cluster = ClusterFile::parse(&written["clients/cluster.toml"]).expect("a good file");
    assert_eq!((cluster.name.as_str(), cluster.delivery_bound), ("chat", Duration::from_millis(500)));
    assert_eq!(cluster.replicas[1].address, "[::1]:7400");
    let operator = read_key(&written["operator.key"], &AccountName::operator()).expect("a key");
    assert_eq!(cluster.operators, [operator.public()]);
    let code = said.split("--invitation ").nth(1).expect("a code");
    let invitation = Some(InvitationCode::typed(code).expect("a code").digest());
    assert_eq!(cluster.initial, InitialSettings { registration: Registration::ByInvitation, invitation });
    assert_eq!(written["replica-b/cluster.toml"], written["clients/cluster.toml"]);
    assert!(written["replica-b/environment"].lines().any(|line| line == "STABLECHAT_NAME=b"));

    let (code, said) = failure(init(&directory, &options));
    assert_eq!(code, Some(73));
    assert!(said.contains("demo exists and is not empty"), "{said}");
    assert_eq!(files(&directory), written);
}

#[test]
fn renew_makes_certificates_that_the_cluster_file_has_a_use_for() {
    let room = tempfile::tempdir().expect("temporary files can be made");
    let [ours, other] = ["ours", "other"].map(|name| room.path().join(name));
    for directory in [&ours, &other] {
        assert_eq!(init(directory, &["--replica", "a=10.0.0.1:7400"]).status.code(), Some(0));
    }
    let renew = |authority: &Path, name: &str| {
        let mut command = Command::new(built("stablechatd"));
        command.arg("renew").arg("--authority").arg(authority.join("authority.pem")).args(["--name", name]);
        command.arg("--out").arg(ours.join("replica-a/identity.pem"));
        run_to_end(command)
    };
    let before = files(&ours)["replica-a/identity.pem"].clone();
    for (authority, name, says) in [(&ours, "b", "it has no replica b; it has a"), (&other, "a", "nobody would trust")]
    {
        let (code, said) = failure(renew(authority, name));
        assert!(code == Some(78) && said.contains(says), "{code:?}: {said}");
        assert_eq!(files(&ours)["replica-a/identity.pem"], before);
    }
    assert_eq!(renew(&ours, "a").status.code(), Some(0));
    assert_ne!(files(&ours)["replica-a/identity.pem"], before);
}

#[test]
fn init_refuses_a_wrong_cluster_and_writes_nothing() {
    let room = tempfile::tempdir().expect("temporary files can be made");
    let directory = room.path().join("demo");
    let wrong: [(&[&str], &str); 7] = [
        (&["--replica", "a=x:1", "--registration", "all"], "it must be open, invitation or closed"),
        (&[], "0 [[replica]] entries"),
        (&["--replica", "a"], "is not NAME=HOST:PORT"),
        (&["--replica", "a=host"], "is not HOST:PORT"),
        (&["--replica", "a=\"x\":1"], "has a character that addresses do not have"),
        (&["--replica", "a=x:1", "--replica", "a=x:2"], "two replicas are named a"),
        (&["--replica", "a=x:1", "--delivery-bound-ms", "1"], "delivery_bound_ms is 1"),
    ];
    for (options, says) in wrong {
        let (code, said) = failure(init(&directory, options));
        assert_eq!(code, Some(2), "{options:?}");
        assert!(said.contains(says), "{said}");
        assert!(!directory.exists());
    }
}

#[test]
fn options_come_from_the_environment_unless_they_are_given() {
    let cluster = Cluster::prepare(&["a"], DELIVERY_BOUND);
    let run = |variables: &[(&str, &Path)], options: &[&str]| {
        let mut command = Command::new(built("stablechatd"));
        command.arg("run").args(options).envs(variables.iter().copied());
        failure(run_to_end(command))
    };
    let (file, missing) = (cluster.file(), Path::new("/missing.toml"));
    let (empty, here, name) = (Path::new(""), Path::new("."), Path::new("A"));
    for (variables, options, code, says) in [
        (
            &[("STABLECHAT_CLUSTER", &*file)][..],
            &["--data", "d"][..],
            2,
            "--name is missing: give it, or set STABLECHAT_NAME",
        ),
        (&[("STABLECHAT_CLUSTER", empty)], &["--name", "a", "--data", "d"], 2, "--cluster is missing"),
        (&[("STABLECHAT_NAME", name)], &["--cluster", "x", "--data", "d"], 2, "STABLECHAT_NAME: \"A\" has a character"),
        (
            &[("STABLECHAT_CLUSTER", &*file)],
            &["--cluster", "/missing.toml", "--name", "a", "--data", "d"],
            78,
            "/missing.toml",
        ),
        (&[("STABLECHAT_CLUSTER", missing), ("STABLECHAT_DATA", here)], &["--name", "a"], 78, "/missing.toml"),
    ] {
        let (ended, said) = run(variables, options);
        assert_eq!(ended, Some(code), "{said}");
        assert!(said.contains(says), "{said}");
    }
    let mut command = Command::new(built("stablechatd"));
    command.arg("run").env("STABLECHAT_CLUSTER", file).env("STABLECHAT_NAME", "a");
    command.env("STABLECHAT_DATA", cluster.data("a")).env("STABLECHAT_IDENTITY", cluster.identity("a"));
    let mut replica = Program::spawn(command);
    cluster.greet("a");
    replica.signal(Signal::TERM);
    assert_eq!(replica.wait().code(), Some(0));
    assert!(cluster.data("a").exists());
}

/// The test in the place of systemd: the socket that a replica reports to, and its reports.
struct Manager {
    socket: UnixDatagram,
    /// All reports so far, a line each.
    told: Vec<String>,
}

impl Manager {
    /// Opens the socket in a directory, and makes a command report to it.
    fn of(directory: &Path, command: &mut Command) -> Manager {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket can be made");
        socket.set_nonblocking(true).expect("a socket can be told so");
        command.env("NOTIFY_SOCKET", path);
        Manager { socket, told: Vec::new() }
    }

    /// Receives the reports that have arrived.
    fn listen(&mut self) {
        let mut bytes = [0; 4096];
        loop {
            match self.socket.recv(&mut bytes) {
                Ok(length) => self.told.extend(String::from_utf8_lossy(&bytes[..length]).lines().map(String::from)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("the socket fails: {error}"),
            }
        }
    }

    /// Waits for a report, and returns its index among all.
    fn wait_for(&mut self, line: &str) -> usize {
        wait_for(line, SOON, || {
            self.listen();
            self.told.iter().position(|told| told == line)
        })
    }

    /// The number of `WATCHDOG=1` reports so far.
    fn feeds(&mut self) -> usize {
        self.listen();
        self.told.iter().filter(|told| *told == "WATCHDOG=1").count()
    }
}

#[test]
fn a_replica_reports_to_systemd_when_it_is_ready_its_state_and_its_stop() {
    let mut cluster = Cluster::prepare(&["a", "b"], DELIVERY_BOUND);
    let mut command = cluster.command("a");
    let mut manager = Manager::of(cluster.path(), &mut command);
    let mut replica = Program::spawn(command);
    // It is ready although no other replica runs.
    assert_eq!(manager.wait_for("READY=1"), 0);
    manager.wait_for("STATUS=serving, position 0, down: b");
    cluster.start_replica("b");
    manager.wait_for("STATUS=serving, position 0, with b");
    replica.signal(Signal::TERM);
    let stopping = manager.wait_for("STOPPING=1");
    assert_eq!(replica.wait().code(), Some(0));
    manager.listen();
    assert_eq!(manager.told[stopping + 1..], ["STATUS=stopping, handing over to the others"]);
    assert_eq!(manager.feeds(), 0, "there was no watchdog");
}

#[test]
fn the_watchdog_is_fed_by_an_idle_replica_and_not_by_one_that_hangs() {
    let cluster = Cluster::prepare(&["a"], DELIVERY_BOUND);
    let mut command = cluster.command("a");
    let mut manager = Manager::of(cluster.path(), &mut command);
    command.env("WATCHDOG_USEC", "400000");
    let replica = Program::spawn(command);
    wait_for("the watchdog is fed", SOON, || (manager.feeds() >= 5).then_some(()));
    replica.signal(Signal::STOP);
    // Reports that were under way at that moment may still come.
    let settled = wait_for("it hangs", SOON, || {
        let (before, begin) = (manager.feeds(), Instant::now());
        wait_for("time passes", SOON, || (begin.elapsed() > Duration::from_secs(1)).then_some(()));
        (manager.feeds() == before).then_some(before)
    });
    replica.signal(Signal::CONT);
    wait_for("the watchdog is fed again", SOON, || (manager.feeds() > settled).then_some(()));
}
