//! Monitoring: scrapes over HTTP, with the test in the place of the applier.

use super::*;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// A replica with a listener for monitoring systems, the address of that, and the counter of the store's writes.
fn watched() -> (Node, SocketAddr, Arc<AtomicU64>) {
    let cluster = cluster(&unused_addresses(1));
    let listener = Listener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.address().expect("a listener has an address");
    let writes = Arc::new(AtomicU64::new(0));
    let monitor = Monitor::new(listener, Arc::clone(&writes));
    (Node::start_watched(&cluster, "a", Some(monitor)), address, writes)
}

/// Sends a request.
fn ask(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit that is not zero");
    stream.write_all(request.as_bytes()).expect("the connection stands");
    stream
}

/// Asks for a page.
fn get(address: SocketAddr, path: &str) -> TcpStream {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
}

/// The status and the body of the answer, after which the connection ends.
fn read(mut stream: TcpStream) -> (u16, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer in time, and then the end");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
    (status.expect("a status"), body.to_string())
}

impl Node {
    /// Expects the next event to be a scrape, and answers it.
    fn see_watched(&mut self, unready: Option<&str>) -> NetStats {
        let NetEvent::Scrape { stats } = self.next() else { panic!("no scrape") };
        let report = ScrapeReport { unready: unready.map(Into::into), metrics: "everything 1\n".into() };
        self.handle.post(vec![NetCommand::ScrapeResult { report }]);
        stats
    }
}

#[test]
fn a_scrape_is_answered_with_the_appliers_report() {
    let (mut node, address, _) = watched();
    let metrics = get(address, "/metrics?everything=please");
    let stats = node.see_watched(None);
    let NetStats { certificate_until, authority_until, .. } = stats;
    assert!(0 < certificate_until && certificate_until < authority_until, "two years, and ten");
    assert_eq!(stats, NetStats { certificate_until, authority_until, ..NetStats::default() });
    assert_eq!(read(metrics), (200, "everything 1\n".into()));
    for (path, unready, expected) in [
        ("/healthz", Some("joining"), (200, "alive\n")),
        ("/readyz", Some("joining"), (503, "joining\n")),
        ("/readyz", None, (200, "serving\n")),
    ] {
        let page = get(address, path);
        node.see_watched(unready);
        let (status, body) = read(page);
        assert_eq!((status, body.as_str()), expected, "{path}");
    }
    // In pieces, of an old version, and for the head only.
    let mut head = ask(address, "HEAD /metrics HT");
    head.write_all(b"TP/1.0\r\n\r\n").expect("the connection stands");
    node.see_watched(None);
    assert_eq!(read(head), (200, String::new()));
    node.stop();
}

#[test]
fn an_invalid_http_request_is_answered_without_the_applier() {
    let (node, address, _) = watched();
    assert_eq!(read(get(address, "/")).0, 404);
    let body = "x".repeat(50_000);
    assert_eq!(read(ask(address, &format!("POST /metrics HTTP/1.1\r\nContent-Length: 50000\r\n\r\n{body}"))).0, 405);
    assert_eq!(read(ask(address, "\x16\x03\x01\x02\r\n\r\n")).0, 400);
    assert_eq!(read(ask(address, &format!("GET /{} HTTP/1.1\r\n", "x".repeat(9000)))).0, 431);
    assert!(node.batches.try_recv().is_err(), "the applier is not bothered");
    node.stop();
}

#[test]
fn a_hanging_applier_is_reported_and_a_busy_one_counts_as_alive() {
    let (mut node, address, writes) = watched();
    let busy = get(address, "/healthz");
    assert!(matches!(node.next(), NetEvent::Scrape { .. }));
    writes.fetch_add(1, Ordering::Relaxed);
    let pages = ["/healthz", "/readyz", "/metrics"].map(|path| get(address, path));
    assert_eq!(read(busy), (200, "alive, and busy\n".into()));
    for page in pages {
        assert_eq!(read(page), (503, "the applier does not answer\n".into()));
    }
    // It is not asked again before it has answered, and then it is.
    assert!(node.batches.try_recv().is_err(), "once is enough");
    node.handle.post(vec![NetCommand::ScrapeResult { report: ScrapeReport { unready: None, metrics: String::new() } }]);
    let health = get(address, "/healthz");
    node.see_watched(None);
    assert_eq!(read(health), (200, "alive\n".into()));
    node.stop();
}

#[test]
fn a_silent_http_connection_is_ended() {
    let (mut node, address, _) = watched();
    let mut silent: Vec<TcpStream> = (0..20).map(|_| ask(address, "GET")).collect();
    let health = get(address, "/healthz");
    node.see_watched(None);
    assert_eq!(read(health), (200, "alive\n".into()));
    let ended = silent[0].read(&mut [0; 16]);
    assert!(matches!(ended, Ok(0)), "{ended:?}");
    node.stop();
}
