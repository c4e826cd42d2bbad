//! A replica of the stablechat service.
//!
//! - [`replica`] is the replication protocol as a pure state machine: inputs in, outputs out.
//! - [`store`] is the chat itself: ordered commands to answers, on RocksDB.
//! - [`applier`] is where the two meet: it performs the outputs of one on the other.
//! - [`net`] is the poll loop: sockets to messages and back. It knows nothing of chat.
//! - [`disk`] is where the store is, and knows how much room there is.
//! - [`control`] gives a copy of the database to who makes a backup.
//! - [`service`] wires the threads together.
//!
//! Dependencies point one way: `net` and `applier` know `replica`'s inputs and outputs; `replica` names no socket, no disk
//! and no clock; `store` names no connection and no peer.

pub mod applier;
pub mod clock;
pub mod control;
pub mod disk;
pub mod exit;
pub mod net;
pub mod replica;
pub mod service;
pub mod store;
