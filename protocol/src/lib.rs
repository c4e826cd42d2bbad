//! What crosses the wire between stablechat's clients and replicas, and the few facts that both sides share.
//!
//! Everything here is a value: there is no I/O, no thread, no clock and no randomness. [`frame`] turns bytes into
//! [`message`]s and back; the other modules are what messages are made of. A value that has a rule (a name, a text, a
//! key) cannot exist without keeping it: decoding checks the rule, so the rest of the code need not.
//!
//! The format is written down in `docs/PROTOCOL.md` as CDDL (RFC 8610) with test vectors.

#![deny(missing_docs)]

#[macro_use]
pub mod wire;

pub mod answer;
pub mod cluster;
pub mod command;
pub mod frame;
pub mod id;
pub mod login;
pub mod message;
pub mod name;
pub mod peer;
pub mod request;
pub mod status;
pub mod text;
pub mod time;
pub mod uid;
pub mod version;
