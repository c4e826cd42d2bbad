//! Measuring loss and delay of datagrams, so that a test knows that the faults it sets do occur.

use super::{Network, enter};
use crate::wait::SOON;
use std::fmt;
use std::net::UdpSocket;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// The time between two datagrams.
const PACE: Duration = Duration::from_millis(1);
/// The number of datagrams that mark the end: several, because some of them may be lost.
const LAST_ONES: usize = 100;

/// Loss and delays of datagrams from one host to another.
#[derive(Clone, Debug)]
pub struct PathMeasurement {
    /// The share of datagrams that was lost.
    pub lost: f64,
    /// The delays of the others, sorted.
    pub delays: Vec<Duration>,
}

impl Network {
    /// Sends so many datagrams from one host to another, and measures their loss and delays.
    ///
    /// # Panics
    /// None of the datagrams that mark the end arrives.
    pub fn measure(&self, from: &str, to: &str, datagrams: u32) -> PathMeasurement {
        let (from, to, target) = (self.path(from), self.path(to), self.address(to).ip());
        let (tell_port, port) = mpsc::channel();
        let sender = thread::spawn(move || {
            enter(&from);
            let socket = UdpSocket::bind("0.0.0.0:0").expect("some port is free");
            let target = (target, port.recv().expect("the receiver runs"));
            let send = |number: u32| {
                thread::sleep(PACE);
                let sent = Instant::now();
                socket.send_to(&number.to_be_bytes(), target).map(|_| sent).expect("a datagram can be sent")
            };
            let mut sent: Vec<Instant> = (0..datagrams).chain([datagrams; LAST_ONES]).map(send).collect();
            sent.truncate(datagrams as usize);
            sent
        });
        let receiver = thread::spawn(move || {
            enter(&to);
            let socket = UdpSocket::bind("0.0.0.0:0").expect("some port is free");
            socket.set_read_timeout(Some(SOON)).expect("a limit that is not zero");
            tell_port.send(socket.local_addr().expect("it is bound").port()).expect("the sender runs");
            let mut number = [0; 4];
            let receive = || {
                socket.recv(&mut number).expect("some datagram comes soon");
                (u32::from_be_bytes(number) < datagrams).then(|| (u32::from_be_bytes(number), Instant::now()))
            };
            std::iter::from_fn(receive).collect::<Vec<_>>()
        });
        let sent = sender.join().expect("the sender does not panic");
        let received = receiver.join().expect("the receiver does not panic");
        let mut delays: Vec<Duration> = received.iter().map(|(number, at)| *at - sent[*number as usize]).collect();
        delays.sort();
        PathMeasurement { lost: 1.0 - delays.len() as f64 / f64::from(datagrams), delays }
    }
}

impl PathMeasurement {
    /// The delay that this share of datagrams did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        self.delays[((self.delays.len() - 1) as f64 * share) as usize]
    }
}

impl fmt::Display for PathMeasurement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [shortest, median, longest] = [0.0, 0.5, 1.0].map(|share| self.quantile(share));
        write!(formatter, "{shortest:.1?} to {longest:.1?}, half within {median:.1?}; {:.1} % lost", self.lost * 100.0)
    }
}
