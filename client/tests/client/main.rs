//! The built client against fake replicas: what it prints, how it exits, and what it does when replicas die, hang, refuse,
//! return or disagree.

mod certificates;
mod chat;
mod commands;
mod fake;
mod faults;
mod keys;
mod lines;
mod output;
mod passwords;
mod probe;
mod run;
mod status;
mod wire;
