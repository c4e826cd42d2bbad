//! Rooms, and the changes in them, as text for people.

use crate::cli::visible::visible;
use serde_json::{Value, json};
use stablechat_protocol::room::{RoomAction, RoomInfo, RoomName, RoomNews, Standing};

/// A room in a list.
pub fn line(RoomInfo { name, is_private, members, owner, topic, standing }: &RoomInfo) -> String {
    let private = if *is_private { "private, " } else { "" };
    let standing = match standing {
        Standing::Stranger => "",
        Standing::Invited => ", you are invited",
        Standing::Member => ", you are a member",
    };
    let plural = if *members == 1 { "" } else { "s" };
    let topic = if topic.as_str().is_empty() { String::new() } else { format!(": {}", visible(topic.as_str())) };
    format!("{name} ({private}{members} member{plural}, of {owner}{standing}){topic}")
}

/// A room as JSON.
pub fn as_json(RoomInfo { name, is_private, members, owner, topic, standing }: &RoomInfo) -> Value {
    let standing = match standing {
        Standing::Stranger => "stranger",
        Standing::Invited => "invited",
        Standing::Member => "member",
    };
    json!({
        "type": "room",
        "name": name.as_str(),
        "private": is_private,
        "members": members,
        "owner": owner.as_str(),
        "topic": topic.as_str(),
        "standing": standing,
    })
}

/// What the account in use has done with a room.
pub fn done(room: &RoomName, action: &RoomAction) -> String {
    match action {
        RoomAction::Create { is_private: false } => format!("created {room}"),
        RoomAction::Create { is_private: true } => format!("created the private room {room}"),
        RoomAction::Join => format!("joined {room}"),
        RoomAction::Leave => format!("left {room}"),
        RoomAction::Invite { name } => format!("invited {name} to {room}"),
        RoomAction::Remove { name } => format!("removed {name} from {room}"),
        RoomAction::SetTopic { topic } if topic.as_str().is_empty() => format!("{room} has no topic"),
        RoomAction::SetTopic { topic } => format!("the topic of {room} is: {}", visible(topic.as_str())),
        RoomAction::GiveTo { name } => format!("{name} owns {room}"),
        RoomAction::Close => format!("closed {room}"),
    }
}

/// What has happened in a room of the account in use.
pub fn news(RoomNews { room, by, action, .. }: &RoomNews) -> String {
    match action {
        RoomAction::Create { .. } => format!("{by} has created {room}"),
        RoomAction::Join => format!("{by} has joined {room}"),
        RoomAction::Leave => format!("{by} has left {room}"),
        RoomAction::Invite { .. } => format!("{by} invites you: join {room}"),
        RoomAction::Remove { name } => format!("{by} has removed {name} from {room}"),
        RoomAction::SetTopic { topic } => format!("{by} has changed the topic of {room}: {}", visible(topic.as_str())),
        RoomAction::GiveTo { name } => format!("{by} has made {name} the owner of {room}"),
        RoomAction::Close => format!("{by} has closed {room}"),
    }
}

/// An action as JSON.
pub fn action_as_json(action: &RoomAction) -> Value {
    match action {
        RoomAction::Create { is_private } => json!({"action": "create", "private": is_private}),
        RoomAction::Join => json!({"action": "join"}),
        RoomAction::Leave => json!({"action": "leave"}),
        RoomAction::Invite { name } => json!({"action": "invite", "name": name.as_str()}),
        RoomAction::Remove { name } => json!({"action": "remove", "name": name.as_str()}),
        RoomAction::SetTopic { topic } => json!({"action": "topic", "topic": topic.as_str()}),
        RoomAction::GiveTo { name } => json!({"action": "give", "name": name.as_str()}),
        RoomAction::Close => json!({"action": "close"}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stablechat_protocol::name::AccountName;
    use stablechat_protocol::room::Topic;

    #[test]
    fn rooms_are_lines() {
        let mut room = RoomInfo {
            name: RoomName::parse("#ops").expect("a name"),
            is_private: false,
            members: 1,
            owner: AccountName::parse("ann").expect("a name"),
            topic: Topic::none(),
            standing: Standing::Stranger,
        };
        assert_eq!(line(&room), "#ops (1 member, of ann)");
        room.topic = Topic::parse("what \u{202e}runs").expect("a topic");
        (room.is_private, room.members, room.standing) = (true, 2, Standing::Member);
        assert_eq!(line(&room), "#ops (private, 2 members, of ann, you are a member): what \\u{202e}runs");
    }
}
