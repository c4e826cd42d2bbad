//! Where a connection comes from, as far as limits go by it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 address, or the network of an IPv6 address (/64): a host commonly has all addresses of one such network, and could use
/// another for each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(IpAddr);

impl Source {
    /// This machine.
    pub const LOCAL: Source = Source(IpAddr::V4(Ipv4Addr::LOCALHOST));

    /// The source of connections from an address.
    pub fn of(address: IpAddr) -> Source {
        Source(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(formatter),
            IpAddr::V6(address) => write!(formatter, "{address}/64"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(address: &str) -> String {
        Source::of(address.parse().expect("an address")).to_string()
    }

    #[test]
    fn addresses_of_one_host_are_one_source() {
        assert_eq!(source("192.0.2.1"), "192.0.2.1");
        assert_eq!(source("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(source("2001:db8:1:2:3::4"), "2001:db8:1:2::/64");
        assert_eq!(source("2001:db8:1:2::5"), source("2001:db8:1:2:3::4"));
        assert_ne!(source("2001:db8:1:3::5"), source("2001:db8:1:2::5"));
    }
}
