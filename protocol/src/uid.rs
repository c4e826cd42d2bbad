//! Uids: the identity of a request, and its place in the order.

use crate::hex::bytes_from_hex;
use crate::time::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A request's identity: its timestamp, then 128 bits of BLAKE3 over the encoded request.
///
/// Every replica applies requests in the order of their uids. They compare as their big-endian bytes do, which is the derived
/// order of the fields. The digest breaks ties, and makes two different bodies with one timestamp two requests. It does not
/// show a client's id to others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid {
    /// When the client issued the request, by its clock as corrected to the replicas' clocks.
    pub timestamp: Timestamp,
    /// The first 128 bits of the BLAKE3 digest of the request's encoding.
    pub digest: [u8; 16],
}

impl Uid {
    /// The length of a uid in bytes.
    pub const LENGTH: usize = 24;
    /// Before every request.
    pub const MIN: Uid = Uid { timestamp: Timestamp::ZERO, digest: [0; 16] };
    /// After every request.
    pub const MAX: Uid = Uid { timestamp: Timestamp::MAX, digest: [0xff; 16] };

    /// The uid of a request with this timestamp and encoding.
    pub fn new(timestamp: Timestamp, encoded_request: &[u8]) -> Uid {
        let mut digest = [0; 16];
        digest.copy_from_slice(&blake3::hash(encoded_request).as_bytes()[..16]);
        Uid { timestamp, digest }
    }

    /// The timestamp in big-endian order, then the digest. These bytes sort as uids do.
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..8].copy_from_slice(&self.timestamp.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.digest);
        bytes
    }

    /// The inverse of [`Uid::to_bytes`]; none when there are not [`Uid::LENGTH`] bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Uid> {
        let (timestamp, digest) = bytes.split_first_chunk::<8>()?;
        Some(Uid { timestamp: Timestamp(u64::from_be_bytes(*timestamp)), digest: digest.try_into().ok()? })
    }

    /// The greatest uid below this one; [`Uid::MIN`] has none, and is returned itself.
    pub fn before(self) -> Uid {
        let (high, low) = (self.timestamp.0, u128::from_be_bytes(self.digest));
        match (low.checked_sub(1), high.checked_sub(1)) {
            (Some(low), _) => Uid { digest: low.to_be_bytes(), ..self },
            (None, Some(high)) => Uid { timestamp: Timestamp(high), digest: [0xff; 16] },
            (None, None) => self,
        }
    }

    /// The inverse of `Display`, which writes 48 hexadecimal digits; none for any other text.
    pub fn from_hex(text: &str) -> Option<Uid> {
        Uid::from_bytes(&bytes_from_hex::<{ Self::LENGTH }>(text)?)
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes().iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

impl Serialize for Uid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.to_bytes())
    }
}

impl<'de> Deserialize<'de> for Uid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes: [u8; Self::LENGTH] = crate::wire::fixed_bytes(deserializer)?;
        Ok(Uid::from_bytes(&bytes).expect("the length is right"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_sort_as_uids_do() {
        let low = Uid { timestamp: Timestamp(255), digest: [9; 16] };
        let middle = Uid { timestamp: Timestamp(256), digest: [1; 16] };
        let high = Uid { timestamp: Timestamp(256), digest: [2; 16] };
        assert!(low < middle && middle < high);
        assert!(low.to_bytes() < middle.to_bytes() && middle.to_bytes() < high.to_bytes());
    }

    #[test]
    fn nothing_lies_between_a_uid_and_the_one_before_it() {
        let uid = |timestamp, last| {
            let mut digest = [0; 16];
            digest[15] = last;
            Uid { timestamp: Timestamp(timestamp), digest }
        };
        assert_eq!(uid(7, 2).before(), uid(7, 1));
        assert_eq!(uid(7, 0).before(), Uid { timestamp: Timestamp(6), digest: [0xff; 16] });
        assert_eq!(Uid::MIN.before(), Uid::MIN);
    }

    #[test]
    fn bytes_and_hexadecimal_round_trip() {
        let uid = Uid::new(Timestamp(1_700_000_000_123_456_789), b"request");
        assert_eq!(Uid::from_bytes(&uid.to_bytes()), Some(uid));
        assert_eq!(Uid::from_hex(&uid.to_string()), Some(uid));
        assert_eq!(Uid::from_bytes(&[0; 23]), None);
        assert_eq!(Uid::from_bytes(&[0; 25]), None);
        assert_eq!(Uid::from_hex("zz"), None);
    }
}
