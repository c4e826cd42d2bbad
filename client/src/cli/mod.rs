//! The command line of stablechat, and its prompt.
//!
//! [`arguments`] reads the command line. One thread waits, in one mio poll, for standard input and for the links ([`app`]), and
//! passes lines and frames on to the [`controller`]. The controller keeps the requests that are still to be answered, and decides
//! what is sent and shown; it has no socket, terminal or clock. [`print`](mod@print) makes text or JSON of the results, and
//! [`screen`] owns the terminal.
//!
//! Two commands for operators need none of that: [`probe`] measures the network, and [`watch`] shows the status of the replicas
//! again and again. They listen from a [`lookout`].

pub mod admin;
pub mod advice;
pub mod app;
pub mod arguments;
pub mod columns;
pub mod completion;
pub mod controller;
pub mod execution;
pub mod exit;
pub mod input;
pub mod lines;
pub mod lookout;
pub mod messages;
pub mod mode;
pub mod places;
pub mod print;
pub mod probe;
pub mod prompt;
pub mod rooms;
pub mod screen;
pub mod secrets;
pub mod signals;
pub mod status;
pub mod verb;
pub mod visible;
pub mod watch;
