//! What the tests of stablechat have in common.
//!
//! - [`cluster`] and [`process`] run the built programs as real processes.
//! - [`raw`] is a client that says exactly what a test wants said; [`session`] and [`pipeline`] are what it says it with.
//! - [`talker`] is the command line's client, which goes on whatever happens; [`ledger`] compares what it was told with what
//!   replicas have.
//! - [`load`] keeps replicas busy and measures it.
//! - [`manual`] makes manual pages of what the command lines say of themselves.
//! - [`network`] puts replicas on hosts of their own, whose cables can be pulled, and can delay and lose what they carry.
//! - [`story`] is what is done to replicas when, and [`plot`] draws what came of it over time.
//! - [`wait`] waits for conditions.

pub mod cluster;
pub mod ledger;
pub mod load;
pub mod manual;
pub mod network;
pub mod pipeline;
pub mod plot;
pub mod process;
pub mod raw;
pub mod session;
pub mod simulator;
pub mod story;
pub mod talker;
pub mod wait;
