//! A client of stablechat, which speaks to every replica of a cluster at once.
//!
//! This is a library first, for many accounts in one process. An account's commands go out in a [`session`], which repeats them
//! until they are answered; [`queries`] does the same for queries, and an [`inbox`] shows each message once and in order. An
//! [`account`] joins the three for one login. None of the four knows a socket or reads a clock. [`links`] owns one connection
//! per replica and knows nothing of chat, [`keys`] keeps the accounts' keys in files, and a
//! [`password`] makes one where there is no file.
//!
//! [`cli`] is the library's first user: the command line and the prompt. Nothing outside of it names it.
//!
//! Left out: the client never decides what is true. It compares the answers of different replicas and reports when they
//! differ, and it keeps no state of its own but keys and the prompt's history.

pub mod account;
pub mod cli;
pub mod clock;
pub mod greeting;
pub mod inbox;
pub mod keys;
pub mod link;
pub mod links;
pub mod password;
pub mod queries;
pub mod reach;
pub mod session;
