//! Replicas that die, hang and lose each other, tested with real processes under load. Floods are tested by programs of their own,
//! `limits` and `hostile_party`, because beside a flood no other test could rely on the delivery bound.

mod agreement;
mod durability;
mod grace;
mod network;
mod probe;
mod recovery;
