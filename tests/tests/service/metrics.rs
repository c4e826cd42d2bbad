//! The metrics and health pages of a replica, and the alerts and the dashboard in `docs/`, which must use only metrics that
//! exist. promtool of Prometheus checks all of them. The dashboard is not loaded into Grafana: the test reads its JSON and checks the
//! expressions in it.

use serde_json::Value;
use stablechat_protocol::answer::Refusal;
use stablechat_protocol::message::ToClient;
use stablechat_tests::cluster::Cluster;
use stablechat_tests::metrics::Metrics;
use stablechat_tests::process::built;
use stablechat_tests::raw::{call_everywhere, create_accounts};
use stablechat_tests::session::{Person, Session, stamp};
use stablechat_tests::wait::{SOON, wait_for, wait_until};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const DELIVERY_BOUND: Duration = Duration::from_millis(200);

#[test]
fn metrics_count_requests_and_connections() {
    let mut cluster = Cluster::prepare(&["a", "b", "c"], DELIVERY_BOUND).with_metrics();
    ["a", "b", "c"].iter().for_each(|name| cluster.start_replica(name));
    cluster.wait_until_same(SOON);
    for name in ["a", "b", "c"] {
        assert_eq!(cluster.page(name, "/healthz"), (200, "alive\n".into()));
        wait_until("a replica serves", SOON, || cluster.page(name, "/readyz") == (200, "serving\n".into()));
    }

    let before = Metrics::of(&cluster, "a");
    let mut clients: Vec<_> = ["a", "b", "c"].iter().map(|name| cluster.greet(name)).collect();
    let (alice, bob) = (Person::new("alice"), Person::new("bob"));
    [&alice, &bob].into_iter().for_each(|person| call_everywhere(&mut clients, &person.create()));
    let late = Session::default().attempt(1, stamp().before(Duration::from_secs(3600)), bob.create());
    clients[0].send(&late).expect("the connection stands");
    let refused = clients[0].receive_other();
    assert!(matches!(refused, ToClient::Refused { reason: Refusal::Late, .. }), "{refused:?}");

    let a = Metrics::of(&cluster, "a");
    // An attempt that one replica refuses as late, and another takes, is in the log beside the one that follows it.
    assert!(a.get("stablechat_applied_position") >= before.get("stablechat_applied_position") + 2.0);
    let answers = |metrics: &Metrics| metrics.sum("stablechat_answers_total");
    assert!(answers(&a) >= answers(&before) + 2.0);
    assert_eq!(answers(&a), a.sum("stablechat_answer_latency_seconds_count"));
    assert!(a.get("stablechat_commit_duration_seconds_count") > before.get("stablechat_commit_duration_seconds_count"));
    assert!(
        a.get("stablechat_refusals_total{reason=\"late\"}") > before.get("stablechat_refusals_total{reason=\"late\"}")
    );
    assert_eq!(a.get("stablechat_status{status=\"serving\"}"), 1.0);
    assert_eq!(a.sum("stablechat_status"), 1.0);
    assert_eq!((a.get("stablechat_clients"), a.sum("stablechat_peer_linked")), (1.0, 2.0));
    assert_eq!(a.get("stablechat_accounts"), 2.0);
    assert!(a.get("stablechat_log_bytes") > before.get("stablechat_log_bytes"));
    assert!(a.get("process_open_fds") > 10.0 && a.get("process_resident_memory_bytes") > 1e6);
    let age = stamp().0 as f64 / 1e9 - a.get("process_start_time_seconds");
    assert!((-1.0..600.0).contains(&age), "it has run for {age} s");
    let (status, text) = cluster.page("a", "/metrics");
    assert_eq!(status, 200);
    promtool(&["check", "metrics"], &text);
    assert_alerts_and_dashboard_go_by(&text);
    assert_operators_are_told_of_all(&text);

    wait_until("a comparison", SOON, || {
        Metrics::of(&cluster, "a").get("stablechat_comparisons_total{result=\"same\"}") > 0.0
    });
    cluster.kill("c");
    wait_until("a loss is noticed", SOON, || {
        let a = Metrics::of(&cluster, "a");
        let of_c = ["stablechat_peer_connected{peer=\"c\"}", "stablechat_peer_linked{peer=\"c\"}"];
        of_c.map(|name| a.get(name)) == [0.0, 0.0] && a.get("stablechat_peer_linked{peer=\"b\"}") == 1.0
    });
}

#[test]
fn a_muted_replica_is_not_ready() {
    let mut cluster = Cluster::prepare(&["a", "b"], DELIVERY_BOUND).with_settings("min_live = 2").with_metrics();
    cluster.start_replica("a");
    let why = wait_for("a word why", SOON, || match cluster.page("a", "/readyz") {
        (503, why) if why.contains("too few") => Some(why),
        _ => None,
    });
    assert_eq!(why, "in contact with too few replicas\n");
    assert_eq!(cluster.page("a", "/healthz").0, 200);
    assert_eq!(Metrics::of(&cluster, "a").get("stablechat_muted"), 1.0);
    cluster.start_replica("b");
    wait_until("both are in contact", SOON, || cluster.page("a", "/readyz").0 == 200);
}

#[test]
fn an_address_that_is_in_use_is_named() {
    let cluster = Cluster::start(&["a"], DELIVERY_BOUND);
    create_accounts(&mut cluster.greet("a"), &[&Person::new("alice")]);
    assert!(!cluster.log("a").contains("metrics"), "metrics were not asked for: {}", cluster.log("a"));
    let (address, other) = (cluster.address("a").to_string(), Cluster::prepare(&["a"], DELIVERY_BOUND));
    let mut command = Command::new(built("stablechatd"));
    command.arg("run").arg("--cluster").arg(other.file()).args(["--name", "a", "--metrics", &address]);
    command.arg("--identity").arg(other.identity("a"));
    let output = command.arg("--data").arg(other.data("a")).output().expect("it is built");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains(&format!("the address {address} is in use")), "{said}");
}

#[test]
fn alerts_fire_when_they_should() {
    let rules = file("docs/prometheus-alerts.yml");
    promtool(&["check", "rules", &rules.to_string_lossy()], "");
    promtool(&["test", "rules", &file("tests/alerts.yml").to_string_lossy()], "");
}

#[test]
fn promtool_accepts_the_expressions_of_the_dashboard() {
    let expressions = dashboard_expressions();
    assert!(expressions.len() > 30, "only {} expressions", expressions.len());
    // As recording rules, since promtool checks expressions only in rules.
    let rule = |(number, text): (usize, &String)| serde_json::json!({ "record": format!("e{number}"), "expr": text });
    let rules: Vec<Value> = expressions.iter().enumerate().map(rule).collect();
    let groups = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    let directory = tempfile::tempdir().expect("temporary files can be made");
    let path = directory.path().join("rules.yml");
    std::fs::write(&path, groups.to_string()).expect("temporary files can be written");
    promtool(&["check", "rules", &path.to_string_lossy()], "");
}

/// Checks that this page of a real replica has each metric that the alerts, their descriptions and the dashboard name.
fn assert_alerts_and_dashboard_go_by(page: &str) {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let mut there: BTreeSet<String> = BTreeSet::new();
    for (name, kind) in types {
        there.insert(name.into());
        if kind == "histogram" {
            there.extend(["bucket", "sum", "count"].map(|suffix| format!("{name}_{suffix}")));
        }
    }
    let named = |text: &str| -> BTreeSet<String> {
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        words.filter(|word| word.starts_with("stablechat_") || word.starts_with("process_")).map(Into::into).collect()
    };
    let by_alerts = named(&read("docs/prometheus-alerts.yml"));
    let by_dashboard = named(&dashboard_expressions().join(" "));
    assert!(by_alerts.len() > 10 && by_dashboard.len() > 20, "{by_alerts:?} {by_dashboard:?}");
    for name in by_alerts.union(&by_dashboard) {
        assert!(there.contains(name), "no replica has {name}");
    }
}

/// Checks that the operators' document has each metric of this page, and no other.
fn assert_operators_are_told_of_all(page: &str) {
    let there: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let document = read("docs/OPERATIONS.md");
    let named =
        document.split('`').filter(|word| ["stablechat_", "process_"].iter().any(|start| word.starts_with(start)));
    assert_eq!(named.collect::<BTreeSet<_>>(), there);
}

/// The expressions of the dashboard, with its variables replaced by values.
fn dashboard_expressions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("docs/grafana-dashboard.json")).expect("the dashboard is JSON");
    let panels = dashboard["panels"].as_array().expect("it has panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let annotations = dashboard["annotations"]["list"].as_array().expect("it has annotations");
    let expressions = targets.chain(annotations).map(|target| target["expr"].as_str().expect("an expression"));
    let known =
        |text: &str| text.replace("$__rate_interval", "1m").replace("$__range", "1h").replace("$instance", ".*");
    expressions.map(known).collect()
}

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
}

/// Runs promtool, the checker of Prometheus.
///
/// # Panics
/// It reports an error, or it is not installed.
fn promtool(arguments: &[&str], input: &str) {
    // The path of scripts/setup, or that of the package.
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    let prepared = cache.map(|cache| cache.join("stablechat/bin/promtool")).filter(|path| path.is_file());
    let tool = prepared.unwrap_or_else(|| "promtool".into());
    let mut command = Command::new(&tool);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{tool:?}: {error}; scripts/setup makes it ready"));
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stderr.is_empty(), "promtool {arguments:?}: {stdout}{stderr}");
}
