//! A replica of the stablechat service.
//!
//! - [`replica`] is the replication protocol, a pure state machine: inputs in, outputs out.
//! - [`store`] is the chat itself: it applies ordered commands to RocksDB and answers them.
//! - [`applier`] joins the two: it gives the replica its inputs, and performs its outputs on the store and the network.
//! - [`net`] is the poll loop: bytes of sockets to messages and back.
//! - [`service`] opens everything and starts the threads.
//! - [`cli`] is the command line, with a file for each subcommand.
//! - [`clock`], [`disk`], [`checkpoint`] (copies for backups), [`metrics`], [`systemd`], [`tls_files`] and [`exit`] each wrap one thing of the world
//!   outside.
//!
//! Dependencies point one way. `net` and `applier` know `replica`'s inputs and outputs. `replica` never names a socket, a disk
//! or a clock; `store` never names a connection or a peer; `net` never names a command or an answer of the chat.

pub mod applier;
pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod disk;
pub mod exit;
#[cfg(test)]
mod fuzzing;
#[cfg(test)]
mod golden;
pub mod metrics;
pub mod net;
#[cfg(test)]
mod random;
pub mod replica;
pub mod service;
pub mod store;
pub mod systemd;
pub mod tls_files;
