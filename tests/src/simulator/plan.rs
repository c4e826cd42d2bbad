//! The plans of clients.

use fastrand::Rng;
use stablechat_protocol::command::Command;
use stablechat_protocol::login::PublicKey;
use std::collections::VecDeque;

/// A part of a plan.
#[derive(Clone, Debug)]
pub enum Stage {
    /// Make the account, without being logged in.
    Create,
    /// As the account, send so many messages, acknowledge those that come, and send queries.
    Speak(u32),
    /// As the account, issue the commands of the stage before again, in the same session, a few of them with another text
    /// ([`other_label`]). Those that are left; they become known when the stage begins.
    Repeat(VecDeque<Command>),
    /// As the account, give it this key, and use that from the next stage on.
    Rekey(PublicKey),
    /// As the account, delete it.
    Delete,
    /// Listen only.
    Over,
}

/// The plan of the client with this number, whose account lasts or is deleted, made again and deleted again.
pub fn draw_plan(random: &mut Rng, number: usize, lasting: bool) -> VecDeque<Stage> {
    let speak = Stage::Speak(random.u32(20..60));
    let plan = if lasting {
        let repeat = Stage::Repeat(VecDeque::new());
        let rekey = Stage::Rekey(PublicKey([100 + number as u8; 32]));
        vec![Stage::Create, speak, repeat.clone(), rekey, Stage::Speak(10), repeat, Stage::Over]
    } else {
        vec![Stage::Create, speak.clone(), Stage::Delete, Stage::Create, speak, Stage::Delete, Stage::Over]
    };
    plan.into()
}
