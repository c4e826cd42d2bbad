//! The command line of stablechat: a client that speaks to every replica of a cluster at once.
//!
//! One thread waits, in one mio poll, for standard input and for one connection per replica ([`app`]). What it hears goes
//! to the [`desk`], which knows what was asked and what is still to be answered, and which decides what is sent and said.
//! The desk is made of pure parts: a [`session`] that issues commands and repeats them until they are answered, the
//! [`queries`] that do the same for queries, and an [`inbox`] that shows each message once and in order. None of these
//! knows a socket or reads a clock. [`links`] owns the sockets and knows nothing of chat; [`screen`] owns the terminal.
//!
//! Two commands for operators need none of that: [`probe`] measures the network, and [`watch`] shows again and again what the
//! replicas do. They listen from a [`lookout`].
//!
//! Left out: the client never decides what is true. It compares the answers of different replicas and reports when they
//! differ, and it keeps no state of its own but keys and the prompt's history.

pub mod advice;
pub mod app;
pub mod cli;
pub mod clock;
pub mod columns;
pub mod desk;
pub mod exit;
pub mod greeting;
pub mod inbox;
pub mod input;
pub mod job;
pub mod keys;
pub mod lines;
pub mod link;
pub mod links;
pub mod lookout;
pub mod places;
pub mod print;
pub mod probe;
pub mod prompt;
pub mod queries;
pub mod reach;
pub mod screen;
pub mod session;
pub mod signals;
pub mod status;
pub mod verb;
pub mod visible;
pub mod watch;
