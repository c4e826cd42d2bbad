//! Standard output that is closed, full or a terminal that is gone, and standard error and input that are of no use: a script
//! must know whether its messages got through, and no message is lost.

use super::run::{Cluster, Said, finish, wait, wait_until};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::thread;

const NO_ROOM: &str = "cannot write to standard output: No space left on device";

/// Runs a client whose standard output nobody reads.
fn unread(mut command: Command) -> Said {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the client starts");
    drop(child.stdout.take());
    Said::from(wait(child))
}

/// Runs a client whose standard output has no room.
fn full(mut command: Command) -> Said {
    let full = OpenOptions::new().write(true).open("/dev/full").expect("it is on every Linux");
    let child = command.stdout(full).stderr(Stdio::piped()).spawn().expect("the client starts");
    Said::from(wait(child))
}

/// Has a file of these lines as standard input.
fn with_input(cluster: &Cluster, mut command: Command, lines: &str) -> Command {
    let path = cluster.path("input");
    std::fs::write(&path, lines).expect("written");
    command.stdin(File::open(path).expect("just written"));
    command
}

/// Both ends of a new terminal.
fn terminal() -> (OwnedFd, impl Fn() -> File) {
    // A client of another test that inherits our end would keep it open.
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags).expect("there are terminals");
    grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("it is ours");
    let path = ptsname(&ours, Vec::new()).expect("it has a name").into_string().expect("UTF-8");
    let open = move || OpenOptions::new().read(true).write(true).open(&path).expect("it is open at our end");
    (ours, open)
}

#[test]
fn a_filter_whose_results_nobody_reads_says_which_lines_were_not_done() {
    let cluster = Cluster::with_accounts(2, &["alice", "bob"]);
    let mut command = cluster.command(&["--as", "alice"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the client starts");
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().expect("a pipe");
    let lines: String = (1..=20_000).map(|number| format!("send bob {number}\n")).collect();
    // The client stops reading, so this fails at some time.
    let writer = thread::spawn(move || drop(stdin.write_all(lines.as_bytes())));
    let said = Said::from(wait(child));
    writer.join().expect("it does not panic");

    said.fails(74, "cannot write to standard output: Broken pipe");
    let (_, rest) = said.err.split_once("; the lines from ").expect("it says which lines were not done");
    let undone: usize = rest.split(' ').next().and_then(|number| number.parse().ok()).expect("a number");
    let expected: Vec<String> = (1..undone).map(|number| number.to_string()).collect();
    assert!(undone > 1, "it was the result of a line that could not be written");
    cluster.has_got(&expected);
}

#[test]
fn lines_that_wait_when_results_cannot_be_written_are_not_done() {
    let cluster = Cluster::with_accounts(1, &["alice", "bob"]);
    // All are read at once. A line that connects waits for all before it, and all after it wait for that.
    let lines = "send bob 1\nconnect alice\nconnect bob\nsend alice 2\n";
    let said = unread(with_input(&cluster, cluster.command(&["--as", "alice"]), lines));
    said.fails(74, "; the lines from 3 on were not done");
    assert_eq!(cluster.replicas[0].state().sent, ["1"]);
}

#[test]
fn when_everything_was_done_it_is_no_failure_that_nobody_reads_the_results() {
    let cluster = Cluster::with_accounts(1, &["alice", "bob"]);
    let list = unread(cluster.command(&["list"]));
    assert_eq!((list.code, list.err.as_str()), (0, ""));
    let send = unread(cluster.command(&["--as", "alice", "send", "bob", "1"]));
    assert_eq!((send.code, send.err.as_str()), (0, ""));
    let filter = with_input(&cluster, cluster.command(&["--as", "alice"]), "send bob 2\nsend bob 3\n");
    let filter = unread(filter);
    assert_eq!((filter.code, filter.err.as_str()), (0, ""));
    let filter = with_input(&cluster, cluster.command(&["--as", "alice"]), "send nobody 2\nsend bob 4\n");
    unread(filter).fails(1, "line 1: there is no account nobody");
    assert_eq!(cluster.replicas[0].state().sent, ["1", "2", "3", "4"]);
    let help = unread(cluster.command(&["--help"]));
    assert_eq!((help.code, help.err.as_str()), (0, ""));
}

#[test]
fn results_that_do_not_fit_on_the_disk_are_a_failure() {
    let cluster = Cluster::with_accounts(1, &["alice", "bob"]);
    full(cluster.command(&["list"])).fails(74, NO_ROOM);
    full(cluster.command(&["--json", "status"])).fails(74, NO_ROOM);
    full(cluster.command(&["--help"])).fails(74, NO_ROOM);
    full(cluster.command(&["status", "--watch"])).fails(74, NO_ROOM);
    full(cluster.command(&["probe", "--seconds", "1"])).fails(74, NO_ROOM);
    let said = full(cluster.command(&["--as", "alice", "send", "bob", "1"]));
    said.fails(74, NO_ROOM);
    said.fails(74, "results are missing, but all requests were carried out");
    let filter = with_input(&cluster, cluster.command(&["--as", "alice"]), "send bob 2\nsend bob 3\n");
    full(filter).fails(74, "results are missing, but all requests were carried out");
    assert_eq!(cluster.replicas[0].state().sent, ["1", "2", "3"]);
}

#[test]
fn messages_that_cannot_be_shown_stay_unread() {
    let cluster = Cluster::with_accounts(1, &["alice", "bob"]);
    cluster.run(&["--as", "alice", "send", "bob", "1"]).says("sent to bob\n");
    assert_eq!(unread(cluster.command(&["--as", "bob", "listen", "--once"])).code, 0);
    full(cluster.command(&["--as", "bob", "listen", "--once"])).fails(74, NO_ROOM);
    full(cluster.command(&["--as", "bob", "listen"])).fails(74, NO_ROOM);
    let filter = with_input(&cluster, cluster.command(&["--as", "bob"]), "list\nlist\n");
    full(filter).fails(74, NO_ROOM);

    // The other end of the terminal is closed.
    let (ours, open) = terminal();
    let mut command = cluster.command(&["--as", "bob", "listen"]);
    command.stdout(open()).stderr(Stdio::piped());
    drop(ours);
    Said::from(wait(command.spawn().expect("the client starts"))).fails(74, "cannot write to standard output");
    assert_eq!(cluster.replicas[0].state().unread(), 1);
    assert_eq!(cluster.run(&["--as", "bob", "listen", "--once"]).texts(), ["alice: 1"]);
}

#[test]
fn a_prompt_ends_when_its_terminal_is_gone() {
    let cluster = Cluster::with_accounts(1, &["alice"]);
    let (ours, open) = terminal();
    let mut command = cluster.command(&["--as", "alice"]);
    command.stdin(open()).stdout(open()).stderr(open());
    let child = command.spawn().expect("the client starts");
    // The command has copies of the terminal.
    drop(command);
    wait_until("alice is connected", || cluster.replicas[0].state().listeners() == 1);
    drop(ours);
    // The session has no controlling terminal, so no signal ends it.
    wait(child);
}

#[test]
fn without_standard_error_the_exit_code_tells() {
    let cluster = Cluster::with_accounts(1, &["alice", "bob"]);
    let run = |arguments: &str| {
        let mut command = Command::new("sh");
        let script = format!("exec \"$0\" {arguments} 2>&-");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_stablechat")]);
        command.env("STABLECHAT_CLUSTER", cluster.path("cluster.toml")).env("STABLECHAT_KEYS", cluster.path("keys"));
        finish(command)
    };
    // A remark that went to a socket in the place of standard error would end the connection.
    run("--as alice send nobody x").fails(1, "");
    run("--as alice send bob x").says("sent to bob\n");
    run("dance").fails(2, "");
}

#[test]
fn a_standard_input_that_cannot_be_read_is_a_failure() {
    let cluster = Cluster::with_accounts(1, &["alice"]);
    let mut command = cluster.command(&["--as", "alice"]);
    command.stdin(File::open("/").expect("a directory can be opened"));
    finish(command).fails(74, "cannot read standard input after line 0, so later ones are not done");
}

#[test]
fn a_line_that_fails_after_standard_input_was_lost_does_not_hide_that() {
    let cluster = Cluster::with_accounts(1, &["alice"]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut ours = TcpStream::connect(listener.local_addr().expect("it listens")).expect("it listens");
    let (mut theirs, _) = listener.accept().expect("it has connected");
    let remarks = || std::fs::read_to_string(cluster.path("remarks")).expect("it was made");

    let mut command = cluster.command(&["--as", "alice"]);
    command.stdin(OwnedFd::from(theirs.try_clone().expect("a descriptor is left")));
    command.stdout(Stdio::piped()).stderr(File::create(cluster.path("remarks")).expect("it can be made"));
    let child = command.spawn().expect("the client starts");
    wait_until("alice is connected", || cluster.replicas[0].state().listeners() == 1);
    cluster.replicas[0].set(|manners| manners.hangs = true);
    ours.write_all(b"send nobody 1\n").expect("the socket takes it");
    // A socket that is closed before everything was read resets the connection.
    theirs.write_all(b"x").expect("the socket takes it");
    wait_until("the byte has come", || ours.peek(&mut [0]).expect("the connection stands") == 1);
    drop(ours);
    wait_until("the client cannot read its input", || remarks().contains("cannot read standard input after line 1"));
    cluster.replicas[0].set(|manners| manners.hangs = false);
    let said = Said::from(wait(child));
    assert!(said.code == 74 && remarks().contains("there is no account nobody"), "{said:?}, {}", remarks());
}

#[test]
fn json_has_no_character_on_which_a_terminal_acts() {
    let cluster = Cluster::with_accounts(1, &["alice", "bob"]);
    let text = "\u{9b}31m \u{7f} \u{202e}evil\u{2066} gr\u{fc}n";
    cluster.run(&["--as", "alice", "send", "bob", text]).says("sent to bob\n");
    for arguments in
        [&["--as", "bob", "--json", "history", "alice"][..], &["--as", "bob", "--json", "listen", "--once"]]
    {
        let said = cluster.run(arguments);
        let is_raw = |character: char| character.is_control() || ('\u{2000}'..'\u{2070}').contains(&character);
        assert!(!said.out.trim_end().contains(is_raw), "{said:?}");
        assert!(
            said.out.contains(r"\u009b31m \u007f \u202eevil\u2066 gr") && said.out.contains("gr\u{fc}n"),
            "{said:?}"
        );
        let object: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
        assert_eq!(object["text"], text);
    }
}
