//! What the tests of stablechat share.
//!
//! - [`cluster`] and [`process`] run the built programs as real processes.
//! - [`raw`] is a client that sends exactly the bytes that a test wants; [`session`] and [`pipeline`] make its requests.
//! - [`talker`] is a client that keeps sending while replicas fail, over the links and sessions of the command line; [`ledger`]
//!   compares the answers that it got with the replicas' stores.
//! - [`hostile`] attacks replicas while honest people chat.
//! - [`load`] keeps replicas busy and measures throughput and latency; [`fan_out`] measures what the members of a room cost,
//!   [`crowd`] what many rooms cost, and [`store_costs`] what a message costs in the store.
//! - [`metrics`] reads what running replicas count.
//! - [`manual`] makes manual pages from the command lines' own descriptions.
//! - [`network`] gives each replica a host of its own. Its cables can be pulled, and can delay and lose frames.
//! - [`outages`] measures what clients notice when a replica fails, here and with other services.
//! - [`story`] says which replica is killed, stopped, paused or started when, and [`plot`] draws the effect over time.
//! - [`wait`] waits for conditions.

pub mod cluster;
pub mod crowd;
pub mod fan_out;
pub mod hostile;
pub mod ledger;
pub mod load;
pub mod manual;
pub mod metrics;
pub mod network;
pub mod outages;
pub mod peers;
pub mod pipeline;
pub mod plot;
pub mod process;
pub mod raw;
pub mod session;
pub mod simulator;
pub mod store_costs;
pub mod story;
pub mod talker;
pub mod wait;
