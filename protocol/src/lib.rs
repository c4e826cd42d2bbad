//! What crosses the wire between stablechat's clients and replicas, and the few facts that both sides share.
//!
//! Everything here is a value: there is no I/O, no thread, no clock and no randomness. A value that has a rule (a name, a text, a
//! key) cannot exist without keeping it: decoding checks the rule, so the rest of the code need not.
//!
//! The modules are layers; each uses only those above it:
//!
//! | layer | modules |
//! |---|---|
//! | encoding | [`wire`] (CBOR), [`frame`] (a length, then a CBOR item), [`hex`] |
//! | values | [`time`], [`clock_offset`], [`uid`], [`name`], [`text`], [`room`], [`conversation`], [`session`], [`digest`], [`login`], [`operator`], [`version`], [`key_file`], [`close`], [`cluster`] |
//! | requests and answers | [`command`], [`request`], [`answer`], [`status`] |
//! | messages | [`message`] (clients and replicas), [`peer`] (replicas among themselves) |
//!
//! The format is defined in `docs/protocol.cddl` (CDDL, RFC 8610), explained in `docs/PROTOCOL.md`, and pinned by the test
//! vectors in `docs/vectors.json`.

#![deny(missing_docs)]

#[macro_use]
pub mod wire;

pub mod answer;
pub mod clock_offset;
pub mod close;
pub mod cluster;
pub mod command;
pub mod conversation;
pub mod digest;
pub mod frame;
pub mod hex;
pub mod key_file;
pub mod login;
pub mod message;
pub mod name;
pub mod operator;
pub mod peer;
pub mod request;
pub mod room;
pub mod session;
pub mod status;
pub mod text;
pub mod time;
pub mod uid;
pub mod version;
