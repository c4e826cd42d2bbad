//! The plans of clients.

use fastrand::Rng;
use stablechat_protocol::command::{Command, UNREAD_MAX};
use stablechat_protocol::login::PublicKey;
use stablechat_protocol::name::AccountName;
use stablechat_protocol::operator::{InvitationCode, Operation, Quota, Registration};
use stablechat_protocol::room::{RoomAction, RoomName, Topic};
use stablechat_protocol::time::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// The key with which operators log in.
pub const OPERATOR_KEY: PublicKey = PublicKey([99; 32]);

/// The code of the invitation that is open in the beginning.
pub fn first_code() -> InvitationCode {
    InvitationCode::from_random([0; 16])
}

/// A part of a plan.
#[derive(Clone, Debug)]
pub enum Stage {
    /// Make the account, without being logged in.
    Create,
    /// As the account, issue so many commands: send messages, read those that come, do things with rooms; and ask queries.
    Speak(u32),
    /// Be away until this time, by the true clock.
    Away(Timestamp),
    /// As the account, issue the commands of the stage before again, in the same session, a few of them with another text
    /// ([`super::label::other_label`]). Those that are left; they become known when the stage begins.
    Repeat(VecDeque<Command>),
    /// As the account, give it this key, and use that from the next stage on.
    Rekey(PublicKey),
    /// As the account, delete it.
    Delete,
    /// As an operator, issue so many commands ([`some_operation`]).
    Operate(u32),
    /// Listen only.
    Over,
}

/// The plan of the client with this number, whose account lasts or is deleted, made again and deleted again. The account with more
/// devices than one, which is that of the first client, keeps its key.
pub fn draw_plan(random: &mut Rng, number: usize, lasting: bool) -> VecDeque<Stage> {
    let speak = Stage::Speak(random.u32(20..60));
    let plan = if number == 0 {
        let repeat = Stage::Repeat(VecDeque::new());
        vec![Stage::Create, speak, repeat.clone(), Stage::Speak(10), repeat, Stage::Over]
    } else if lasting {
        let repeat = Stage::Repeat(VecDeque::new());
        let rekey = Stage::Rekey(PublicKey([100 + number as u8; 32]));
        vec![Stage::Create, speak, repeat.clone(), rekey, Stage::Speak(10), repeat, Stage::Over]
    } else {
        vec![Stage::Create, speak.clone(), Stage::Delete, Stage::Create, speak, Stage::Delete, Stage::Over]
    };
    plan.into()
}

/// The plan of one more device of an account: it comes and goes. It is there when the simulation ends.
pub fn devices_plan(random: &mut Rng, now: Timestamp) -> VecDeque<Stage> {
    let mut until = now;
    let mut plan = VecDeque::new();
    for _ in 0..random.u32(1..5) {
        until = until.after(Duration::from_millis(random.u64(500..6000)));
        plan.push_back(Stage::Away(until));
        plan.push_back(Stage::Speak(random.u32(1..20)));
    }
    plan.push_back(Stage::Over);
    plan
}

/// The names of the rooms of a simulation.
pub fn room_names() -> impl Iterator<Item = RoomName> + Clone {
    ["#tea", "#ops", "#den"].into_iter().map(|name| RoomName::parse(name).expect("a name"))
}

/// Something that a client does with a room, alone or with another account.
pub fn some_action(random: &mut Rng, other: AccountName) -> Command {
    let room = random.choice(room_names().collect::<Vec<_>>()).expect("there are some");
    let action = match random.u8(..20) {
        0..4 => RoomAction::Create { is_private: random.bool() },
        4..10 => RoomAction::Join,
        10..12 => RoomAction::Leave,
        12..16 => RoomAction::Invite { name: other },
        16 => RoomAction::Remove { name: other },
        17 => RoomAction::SetTopic { topic: Topic::parse(format!("topic {}", random.u8(..))).expect("one line") },
        18 => RoomAction::GiveTo { name: other },
        _ => RoomAction::Close,
    };
    Command::Room { room, action }
}

/// The plan of an operator.
pub fn operators_plan(random: &mut Rng) -> VecDeque<Stage> {
    vec![Stage::Operate(random.u32(10..60)), Stage::Repeat(VecDeque::new()), Stage::Over].into()
}

/// A command of an operator. Other clients' accounts are left alone, so that there is something to check in the end. They may be
/// unable to create them, or to get messages.
pub fn some_operation(random: &mut Rng) -> Command {
    let name = AccountName::parse(format!("guest{}", random.u8(..3))).expect("letters and a digit");
    let key = PublicKey([200 + random.u8(..3); 32]);
    let code = InvitationCode::from_random([random.u8(..4); 16]);
    let operation = match random.u8(..17) {
        0..4 => return Command::Create { name, key, invitation: random.bool().then_some(code) },
        4 => Operation::SetRegistration { registration: Registration::Closed },
        5..7 => Operation::SetRegistration { registration: Registration::ByInvitation },
        7..10 => Operation::SetRegistration { registration: Registration::Open },
        10..12 => Operation::Invite { invitation: code.digest() },
        12 => Operation::Revoke { invitation: code.digest() },
        13 => Operation::RemoveAccount { name },
        14 => Operation::ReplaceKey { name, key },
        15 => Operation::CloseRoom { room: random.choice(room_names().collect::<Vec<_>>()).expect("there are some") },
        _ => match random.u8(..3) {
            0 => Operation::SetQuota { quota: Quota::Accounts, limit: random.u64(3..20) },
            1 => Operation::SetQuota { quota: Quota::Unread, limit: random.u64(20..200) },
            _ => Operation::SetQuota { quota: Quota::Unread, limit: UNREAD_MAX + random.u64(..2) },
        },
    };
    Command::Operate { operation }
}
