use super::*;
use crate::testing::wait;
use mio::{Events, Interest, Poll, Token};
use std::net::TcpListener;
use std::time::Instant;

const PACING: Pacing = Pacing {
    first_wait: Duration::from_millis(50),
    longest_wait: Duration::from_millis(150),
    connect_limit: Duration::from_secs(10),
};

/// A dial with a poll of its own.
struct Rig {
    poll: Poll,
    resolver: Resolver,
    dial: Dial<Instant>,
}

impl Rig {
    fn new(address: &str) -> Rig {
        let dial = Dial::new(0, address.into(), PACING, Instant::now());
        Rig { poll: Poll::new().expect("a poll"), resolver: Resolver::new(1, || {}), dial }
    }

    /// Goes on until the attempt has an outcome.
    fn attempt(&mut self) -> Result<TcpStream, String> {
        let registry = self.poll.registry().try_clone().expect("a registry");
        let mut register =
            |socket: &mut TcpStream| registry.register(socket, Token(0), Interest::READABLE | Interest::WRITABLE);
        let mut outcome = None;
        wait(|| {
            let now = Instant::now();
            let mut result = self.dial.step(now, &self.resolver, &mut register);
            for (_, addresses) in self.resolver.done() {
                result = result.and_then(|()| self.dial.on_resolved(now, addresses, &mut register));
            }
            let timeout = Some(Duration::from_millis(5));
            self.poll.poll(&mut Events::with_capacity(4), timeout).expect("a poll");
            outcome = match result.and_then(|()| self.dial.on_ready(now)) {
                Ok(socket) => socket.map(Ok),
                Err(why) => Some(Err(why)),
            };
            outcome.is_some()
        });
        outcome.expect("waited for it")
    }
}

/// A socket that is bound and does not listen: while it is open, nobody else can listen at its address.
fn closed_port() -> std::net::TcpStream {
    let domain = rustix::net::AddressFamily::INET;
    let socket = rustix::net::socket(domain, rustix::net::SocketType::STREAM, None).expect("a socket");
    let any = std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0);
    rustix::net::bind(&socket, &any).expect("a free port");
    std::net::TcpStream::from(socket)
}

#[test]
fn waits_double_up_to_the_longest() {
    let waits = |jitter| -> Vec<u128> { (0..6).map(|failures| PACING.wait(failures, jitter).as_millis()).collect() };
    assert_eq!(waits(0), [25, 50, 75, 75, 75, 75]);
    assert_eq!(waits(u8::MAX), [50, 100, 150, 150, 150, 150]);
    assert_eq!(PACING.wait(u32::MAX, u8::MAX), PACING.longest_wait);
}

#[test]
fn a_number_is_connected_to() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut rig = Rig::new(&address.to_string());
    let socket = rig.attempt().expect("somebody listens");
    assert_eq!(socket.peer_addr().expect("connected"), address);
    assert!(rig.dial.deadline().is_none(), "the caller says when to dial again");

    let now = Instant::now();
    rig.dial.retry(now);
    let wait = rig.dial.deadline().expect("another attempt") - now;
    assert!(wait >= PACING.first_wait / 2 && wait <= PACING.first_wait, "{wait:?}");
}

#[test]
fn a_name_is_looked_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    // On many machines the name stands for ::1 first, where nobody listens.
    let socket = Rig::new(&format!("localhost:{port}")).attempt().expect("one of the addresses works");
    assert_eq!(socket.peer_addr().expect("connected").port(), port);
}

#[test]
fn an_address_that_refuses_is_not_the_last() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let good = listener.local_addr().expect("bound");
    let mut rig = Rig::new("unused");
    rig.dial.state = State::Waiting { until: Instant::now() };
    let closed = closed_port();
    rig.dial.untried = [closed.local_addr().expect("bound"), good].into();
    assert_eq!(rig.attempt().expect("the second works").peer_addr().expect("connected"), good);
}

#[test]
fn an_address_that_came_to_nothing_is_followed_by_the_next() {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let addresses = listeners.each_ref().map(|listener| listener.local_addr().expect("bound"));
    let mut rig = Rig::new("no-port-here");
    rig.dial.state = State::Waiting { until: Instant::now() };
    rig.dial.untried = addresses.into();
    for address in addresses {
        let socket = rig.attempt().expect("it connects");
        assert_eq!(socket.peer_addr().expect("connected"), address);
        rig.dial.retry(Instant::now());
    }
    rig.attempt().expect_err("after the last one the name is looked up again");
}

#[test]
fn after_a_success_the_name_is_looked_up_again() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut rig = Rig::new("no-port-here");
    rig.dial.state = State::Waiting { until: Instant::now() };
    rig.dial.untried = [address, address].into();
    rig.attempt().expect("it connects");
    rig.dial.on_success();
    rig.dial.retry(Instant::now());
    rig.attempt().expect_err("the name has no address");
}

#[test]
fn a_refusal_is_an_error_and_another_attempt_follows() {
    let closed = closed_port();
    let mut rig = Rig::new(&closed.local_addr().expect("bound").to_string());
    let why = rig.attempt().expect_err("nobody listens");
    assert!(why.contains("refused"), "{why}");
    assert!(rig.dial.deadline().is_some() && !rig.dial.is_connecting());
    rig.attempt().expect_err("nobody listens yet");
}

#[test]
fn an_attempt_can_be_hurried() {
    let closed = closed_port();
    let mut rig = Rig::new(&closed.local_addr().expect("bound").to_string());
    rig.attempt().expect_err("nobody listens");
    let begun = Instant::now();
    rig.dial.retry_slowly(begun);
    rig.dial.hurry(begun);
    assert_eq!(rig.dial.deadline(), Some(begun));

    // One that is under way is not disturbed.
    rig.dial.state = State::Connected;
    rig.dial.hurry(begun);
    assert!(matches!(rig.dial.state, State::Connected));
}

#[test]
fn a_name_without_an_address_is_an_error() {
    let mut rig = Rig::new("no-port-here");
    assert!(!rig.attempt().expect_err("no such name").is_empty());
    rig.dial.state = State::Resolving;
    let why = rig.dial.on_resolved(Instant::now(), Ok(Vec::new()), &mut |_| Ok(())).expect_err("no address");
    assert_eq!(why, "its name has no address");
}

#[test]
fn a_slow_address_is_given_up() {
    let mut rig = Rig::new("127.0.0.1:1");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let socket = TcpStream::connect(listener.local_addr().expect("bound")).expect("connecting");
    let now = Instant::now();
    rig.dial.state = State::Connecting { socket, until: now };
    let why = rig.dial.step(now, &rig.resolver, &mut |_| Ok(())).expect_err("it took too long");
    assert_eq!(why, "no answer within 10s");
}

#[test]
fn a_connection_to_itself_is_refused() {
    // The kernel connects a socket to itself when it dials the port that it is bound to.
    let socket = closed_port();
    rustix::net::connect(&socket, &socket.local_addr().expect("bound")).expect("connected to itself");

    let socket = TcpStream::from_std(socket);
    let error = is_connected(&socket).expect_err("it is its own peer");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn an_attempt_is_refused_only_if_each_address_has_refused_it() {
    let closed = closed_port();
    let mut rig = Rig::new(&closed.local_addr().expect("bound").to_string());
    assert!(!rig.dial.is_refused(), "nothing was tried");
    rig.attempt().expect_err("nobody listens");
    assert!(rig.dial.is_refused());

    // A name that is not known says nothing of who listens.
    let mut rig = Rig::new("nobody.invalid:7400");
    rig.attempt().expect_err("there is no such name");
    assert!(!rig.dial.is_refused());

    // One that has accepted a connection is not undone by the next, which refuses.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let [good, bad] = [listener.local_addr(), closed.local_addr()].map(|address| address.expect("bound"));
    for also in [vec![bad], vec![bad, good]] {
        let mut rig = Rig::new(&good.to_string());
        rig.dial = rig.dial.with_also(also);
        rig.attempt().expect("the first works");
        rig.dial.retry(Instant::now());
        rig.attempt().expect_err("the second does not");
        assert!(!rig.dial.is_refused());
        drop(rig.attempt().expect("the first works still"));
    }

    // The same the other way round, and once nobody listens any more.
    let mut rig = Rig::new(&bad.to_string());
    rig.dial = rig.dial.with_also(vec![good]);
    rig.attempt().expect("the second works");
    drop(listener);
    rig.dial.retry(Instant::now());
    rig.attempt().expect_err("nobody listens any more");
    assert!(rig.dial.is_refused());

    let mut dial = Dial::new(0, "192.0.2.1:1".into(), PACING, Instant::now());
    let (refused, unreachable) = (io::ErrorKind::ConnectionRefused, io::ErrorKind::HostUnreachable);
    for (first, second, expected) in
        [(refused, refused, true), (refused, unreachable, false), (unreachable, refused, false)]
    {
        let address = "192.0.2.1:1".parse().expect("an address");
        dial.begin_attempt(vec![address, address]);
        dial.fail(&first.into(), Instant::now()).expect("there is another address");
        dial.untried.clear();
        dial.fail(&second.into(), Instant::now()).expect_err("there is no other");
        assert_eq!(dial.is_refused(), expected, "{first:?}, {second:?}");
    }
}
