//! The service as its users and operators meet it, tested with real processes: one to three replicas, no faults of the network, and
//! no load. These tests mostly wait. They are modules of one program, since cargo runs the programs of tests one after another.

mod account_keys;
mod chat;
mod connections;
mod data;
mod demo_faults;
mod disk;
mod encryption;
mod help;
mod malformed;
mod manual;
mod metrics;
mod operators;
mod people;
mod process;
mod restarts;
mod rooms;
mod setup;
mod upgrade;
