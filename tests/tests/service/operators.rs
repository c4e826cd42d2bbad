//! What operators may do, who may have an account, and what strangers are told.

use stablechat_protocol::answer::{Answer, QueryAnswer, Refusal, Rejection};
use stablechat_protocol::command::{Command as ChatCommand, Query};
use stablechat_protocol::login::LoginRefusal;
use stablechat_protocol::message::{ToClient, ToReplica};
use stablechat_protocol::name::Pattern;
use stablechat_protocol::operator::{InvitationCode, Operation, Registration};
use stablechat_protocol::status::ReportedPhase;
use stablechat_tests::cluster::{CLUSTER, CLUSTER_ID, Cluster};
use stablechat_tests::process::{built, run_to_end};
use stablechat_tests::raw::create_accounts;
use stablechat_tests::session::{Person, Session};
use stablechat_tests::wait::{SOON, wait_until};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const DELIVERY_BOUND: Duration = Duration::from_millis(200);
const NAMES: [&str; 3] = ["a", "b", "c"];

/// The code of the invitation that is open in the beginning.
fn first() -> InvitationCode {
    InvitationCode::parse("k7q1-m2xa-9rdt-w3hz-5vbn").expect("a code")
}

/// The exit code of the client on a machine with these keys, and what it says.
fn stablechat(cluster: &Cluster, keys: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(built("stablechat"));
    command.env_clear().env("STABLECHAT_CLUSTER", cluster.file()).env("STABLECHAT_KEYS", keys).args(arguments);
    let output = run_to_end(command);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().expect("it was not killed"), String::from_utf8(said).expect("UTF-8"))
}

#[test]
fn accounts_are_created_by_invitation_until_the_operator_says_otherwise() {
    let mut cluster = Cluster::prepare(&NAMES, DELIVERY_BOUND).by_invitation(&first());
    NAMES.iter().for_each(|name| cluster.start_replica(name));
    cluster.wait_until_same(SOON);
    let (user, operator) = (cluster.path().join("user"), cluster.path().join("keys"));
    let run = |keys: &Path, line: &str| stablechat(&cluster, keys, &line.split(' ').collect::<Vec<_>>());
    let done = |keys: &Path, line: &str| {
        let (code, said) = run(keys, line);
        assert_eq!(code, 0, "{line}: {said}");
        said
    };
    let fails = |keys: &Path, line: &str, code: i32, says: &str| {
        let (found, said) = run(keys, line);
        assert!(found == code && said.contains(says), "{line} ends with {found}: {said}");
    };

    fails(&user, "create ann", 77, "with one: stablechat create NAME --invitation CODE");
    fails(&user, "create ann --invitation k7q1", 2, "it is no invitation code");
    fails(&user, "create ann --invitation k7q1-m2xa-9rdt-w3hz-5vbm", 77, "no such invitation");
    done(&user, &format!("create ann --invitation {}", first()));
    fails(&user, &format!("create bob --invitation {}", first()), 77, "it was used or revoked");
    fails(&user, "admin", 78, "there is no operator's key");

    let code = done(&operator, "admin invite");
    done(&user, &format!("create bob --invitation {}", code.trim().to_uppercase()));
    let revoked = done(&operator, "admin invite");
    done(&operator, &format!("admin revoke {}", revoked.trim()));
    fails(&user, &format!("create cid --invitation {}", revoked.trim()), 77, "it was used or revoked");
    done(&operator, "admin registration open");
    done(&user, "create cid");
    done(&operator, "admin quota accounts 3");
    fails(&user, "create dan", 1, "as many accounts as its operator allows");
    done(&operator, "admin remove cid");
    fails(&user, "send --as cid ann x", 77, "there is no account cid with your key");
    done(&user, "create dan");
    let said = done(&operator, "admin");
    assert!(said.starts_with("registration: open to all\naccounts: 3 of at most 3\n"), "{said}");
    fails(&operator, "admin dance", 2, "there is no admin dance");
    fails(&operator, "admin --as ann", 2, "admin speaks as operator, not as ann");
    fails(&user, "create operator", 2, "operator is no account");
    assert!(!user.join(format!("{CLUSTER}@{CLUSTER_ID}/operator.key.new")).exists(), "a key that is none's is kept");

    let password = cluster.path().join("password");
    std::fs::write(&password, done(&operator, "admin reset ann")).expect("written");
    fails(&user, "unread --as ann", 77, "there is no account ann with your key");
    let elsewhere = cluster.path().join("elsewhere");
    done(&elsewhere, &format!("unread --as ann --password-file {}", password.display()));
    for name in NAMES {
        wait_until("every replica has noted what was done", SOON, || {
            let log = cluster.log(name);
            let noted = |what: &str| log.contains("audit: the operator with the key") && log.contains(what);
            ["registration open: done", "at most 3 accounts: done", "remove the account cid: done"]
                .into_iter()
                .all(noted)
        });
    }
}

#[test]
fn an_operators_key_that_was_replaced_is_good_for_nothing() {
    let (earlier, later) = (Person::operator(), Person { secret: Person::new("x").secret, ..Person::operator() });
    let mut cluster = Cluster::start(&["a", "b"], DELIVERY_BOUND);
    cluster.wait_until_same(SOON);
    let registration = Registration::Closed;
    let close = || ChatCommand::Operate { operation: Operation::SetRegistration { registration } };
    let mut client = cluster.greet("a");
    client.login(&earlier, false);
    assert_eq!(client.call(close()), Answer::Done);
    let refused = ToClient::LoginRefused { account: later.account.clone(), reason: LoginRefusal::NotAnOperator };
    assert_eq!(client.try_login(&later, false), refused);
    client.send(&Session::default().next(close())).expect("the connection stands");
    assert!(matches!(client.receive_other(), ToClient::Refused { reason: Refusal::LoginRefused, .. }));

    // One replica after the other is started with the other key. They stay together meanwhile.
    cluster.appoint(&later);
    for name in ["a", "b"] {
        cluster.stop(name);
        cluster.start_replica(name);
        cluster.wait_until_same(SOON);
        // While only one of the two knows the key, the other one is no hindrance.
        let said = stablechat(&cluster, &cluster.path().join("keys"), &["admin"]);
        let (code, says) =
            if name == "a" { (0, "registration: closed") } else { (77, "this key is not an operator's") };
        assert!(said.0 == code && said.1.contains(says), "{said:?}");
    }
    for name in ["a", "b"] {
        let mut client = cluster.greet(name);
        let reason = LoginRefusal::NotAnOperator;
        let refused = ToClient::LoginRefused { account: earlier.account.clone(), reason };
        assert_eq!(client.try_login(&earlier, false), refused);
        client.login(&later, false);
        assert_eq!(client.call(close()), Answer::Done);
    }
}

#[test]
fn strangers_are_told_little() {
    let cluster = Cluster::start(&["a", "b"], DELIVERY_BOUND);
    cluster.wait_until_same(SOON);
    let alice = Person::new("alice");
    let mut client = cluster.greet("a");
    create_accounts(&mut client, &[&alice]);
    let list = || Query::List { pattern: Pattern::all(), after: None, limit: 10 };
    for person in [None, Some(Person::new("alice")), Some(Person::new("mallory"))] {
        person.iter().for_each(|person| client.login(person, false));
        let reason = match person {
            None => Rejection::LoginRequired,
            // Which of the two names is taken is not said.
            Some(Person { account: name, .. }) => Rejection::NotOwner { name },
        };
        assert_eq!(client.ask(list()), QueryAnswer::Rejected { reason });
        client.send(&ToReplica::Status).expect("the connection stands");
        let ToClient::PublicStatus { status } = client.receive_other() else { panic!("more than strangers are told") };
        assert_eq!((status.phase, status.position, status.linked), (ReportedPhase::Serving, 1, 1));
        client.send(&ToReplica::PingPeers).expect("the connection stands");
        let ToClient::PeersPinged { peers, .. } = client.receive_other() else { panic!("an answer to something else") };
        assert_eq!(peers, []);
    }
    for person in [&alice, &Person::operator()] {
        client.login(person, false);
        assert_eq!(client.ask(list()), QueryAnswer::Accounts { names: vec![alice.account.clone()], next: None });
        client.send(&ToReplica::Status).expect("the connection stands");
        assert!(matches!(client.receive_other(), ToClient::Status { .. }));
        client.send(&ToReplica::PingPeers).expect("the connection stands");
        let ToClient::PeersPinged { peers, .. } = client.receive_other() else { panic!("an answer to something else") };
        assert_eq!(peers.len(), 1);
        assert!(matches!(client.receive_other(), ToClient::PeerPong { .. }));
    }

    let (nobody, operator) = (cluster.path().join("nobody"), cluster.path().join("keys"));
    let (code, said) = stablechat(&cluster, &nobody, &["status"]);
    assert!(code == 1 && said.contains("state: unknown: replicas tell it to accounts and operators only"), "{said}");
    let (code, said) = stablechat(&cluster, &nobody, &["list"]);
    assert!(code == 77 && said.contains("name an account with --as NAME"), "{said}");
    wait_until("the operator sees that the replicas are the same", SOON, || {
        let (code, said) = stablechat(&cluster, &operator, &["status"]);
        code == 0 && said.contains("state: same")
    });
    assert_eq!(stablechat(&cluster, &operator, &["list"]), (0, "alice\n".into()));
}

#[test]
fn the_initial_settings_of_a_store_stay_as_they_were() {
    let mut cluster = Cluster::start(&["a"], DELIVERY_BOUND);
    cluster.stop("a");
    let mut cluster = cluster.by_invitation(&first());
    cluster.spawn_replica("a");
    assert_eq!(cluster.wait_for_end("a").code(), Some(78));
    let log = cluster.log("a");
    for says in
        ["was made with `registration = \"open\"` and no `first_invitation`", "use `stablechat admin registration`"]
    {
        assert!(log.contains(says), "{log}");
    }
}
