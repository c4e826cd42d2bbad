//! The built client against replicas that are played: what it prints, how it exits, and what it does when replicas die,
//! hang, refuse, return or lie.

mod commands;
mod fake;
mod faults;
mod lines;
mod probe;
mod run;
mod status;
