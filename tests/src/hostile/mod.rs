//! A hostile party: it attacks running replicas in every way that the protocol allows to a stranger or to an account, while an
//! honest pair of people chats.
//!
//! - [`attack`]: an attack has a name, rates that it never exceeds, and a function for the next step of a connection.
//! - `strangers`, `queries`, `accounts`, `monitoring`: the attacks.
//! - `swarm`: connections by the thousand, driven by one thread.
//! - [`targets`]: the replicas and the accounts that attacks are about.
//! - [`honest`]: the pair of people, and a visitor who connects anew for each message.
//! - [`rounds`]: which attacks run when, drawn from a seed.
//! - [`watch`]: the replicas' memory and metrics.
//! - [`battle`]: runs everything; [`verdict`]: the effects and the faults.
//!
//! The party never greets as a replica: replicas cannot authenticate each other yet, and believe each other.

mod accounts;
pub mod attack;
pub mod battle;
pub mod honest;
mod monitoring;
mod queries;
pub mod rounds;
mod strangers;
mod swarm;
pub mod targets;
pub mod verdict;
pub mod watch;
