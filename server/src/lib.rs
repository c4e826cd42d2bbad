//! A replica of the stablechat service.
//!
//! - [`replica`] is the replication protocol as a pure state machine: inputs in, outputs out.
//! - [`store`] is the chat itself: ordered commands to answers, on RocksDB.
//! - [`applier`] is where the two meet: it performs the outputs of one on the other.
//! - [`net`] is the poll loop: sockets to messages and back. It knows nothing of chat.
//! - [`metrics`] is what a replica measures of itself, as text.
//! - [`disk`] is where the store is, and knows how much room there is.
//! - [`control`] gives a copy of the database to who makes a backup.
//! - [`service`] wires the threads together.
//! - [`supervision`] tells systemd how the replica is.
//! - [`cli`] is the command line.
//!
//! Dependencies point one way: `net` and `applier` know `replica`'s inputs and outputs; `replica` names no socket, no disk
//! and no clock; `store` names no connection and no peer.

pub mod applier;
pub mod cli;
pub mod clock;
pub mod control;
pub mod disk;
pub mod exit;
#[cfg(test)]
mod golden;
pub mod metrics;
pub mod net;
pub mod replica;
pub mod service;
pub mod store;
pub mod supervision;
