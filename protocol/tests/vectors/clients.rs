//! Messages between clients and replicas, and the types of their fields.

use super::Vectors;
use super::samples::*;
use stablechat_protocol::answer::{Answer, QueryAnswer, Refusal, Rejection, Stability};
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::command::{Command, Query};
use stablechat_protocol::conversation::{Conversation, InboxEntry, InboxPlace, Page, ReadRange};
use stablechat_protocol::digest::Digest;
use stablechat_protocol::login::{LoginProof, LoginRefusal, Signature};
use stablechat_protocol::message::{MAGIC, Role, ToClient, ToReplica};
use stablechat_protocol::name::{ClusterName, Pattern};
use stablechat_protocol::operator::{OpenInvitation, Operation, Quota, Registration, Settings};
use stablechat_protocol::request::RequestId;
use stablechat_protocol::room::{Member, RoomAction, RoomInfo, RoomInvitation, RoomNews, Standing, Topic};
use stablechat_protocol::text::MessageText;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use stablechat_protocol::version::{VERSION_MAX, VERSION_MIN};

wire_enums! {
    "to-replica" ToReplica { Hello, Login, Logout, Request, Query, Ping, Status, PingPeers }
    "to-client" ToClient {
        Welcome, Closing, LoggedIn, LoginRefused, Answer, QueryAnswer, Refused, Delivery, Pong, Status, Changed, PeersPinged,
        PeerPong, LoggedOut, PublicStatus, InboxChanged, RoomNews
    }
    "role" Role { Client, Replica }
    "login-proof" LoginProof { Signature }
    "login-refusal" LoginRefusal { BadProof, TooManyKeys, NotAnOperator }
    "close-reason" CloseReason {
        NotStablechat, Version, WrongCluster, Malformed, TooLarge, OutOfPlace, Silent, SlowReader, Stopping, Full,
        OtherClusterFile, NotCertified
    }
    "request-id" RequestId { Command, Query }
    "refusal" Refusal { Late, Ahead, NotServing, Overloaded, NoRoom, TooFast, LoginRefused }
    "stability" Stability { Closed, RealTime }
    "command" Command { Create, Delete, Send, Read, SetKey, Operate, Room, Block, Mute }
    "operation" Operation {
        SetRegistration, Invite, Revoke, SetQuota, RemoveAccount, ReplaceKey, CloseRoom, SetRetention
    }
    "registration" Registration { Open, ByInvitation, Closed }
    "quota" Quota { Accounts, Unread, Requests }
    "conversation" Conversation { Account, Room, Former }
    "page" Page { Latest, Before, After, Around, Unread }
    "room-action" RoomAction { Create, Join, Leave, Invite, Remove, SetTopic, GiveTo, Close }
    "standing" Standing { Stranger, Invited, Member }
    "answer-body" Answer { Done, Rejected }
    "rejection" Rejection {
        AlreadyExists, NoSuchUser, NotOwner, LoginRequired, TooManyUnread, NotYourSession, OutOfSequence,
        AnswerForgotten, TooMany, DifferentCommand, RegistrationClosed, InvitationNeeded, NoSuchInvitation,
        NotAnOperator, TooManyAccounts, NoSuchRoom, NotAMember, RoomExists, RoomFull, TooManyRooms, NotRoomOwner,
        NoSuchMember, Outdated, NoRange, TooManyRanges, TooManyRequests, NoConversation
    }
    "query-body" Query { List, Inbox, History, Settings, Rooms, Members, Blocked }
    "query-answer-body" QueryAnswer { Rejected, Accounts, Messages, Settings, Inbox, Rooms, Members }
}

impl Vectors {
    pub fn add_messages_to_replicas(&mut self) {
        let hello = |role| ToReplica::Hello {
            magic: MAGIC.to_string(),
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            role,
            cluster: ClusterName::parse("demo").expect("a name"),
        };
        self.add("of a client", hello(Role::Client));
        self.add("of a replica", hello(replica_role()));
        self.add(
            "to receive messages",
            ToReplica::Login {
                account: account("alice"),
                key: secret_key().public(),
                receive: true,
                proof: LoginProof::Signature { signature: secret_key().sign(&statement()) },
            },
        );
        self.add("", ToReplica::Logout);
        self.add(
            "to send a message",
            ToReplica::Request { client: CLIENT, sequence: 24, timestamp: NOW, command: send("hello, bob") },
        );
        self.add(
            "with the greatest numbers",
            ToReplica::Request {
                client: CLIENT,
                sequence: u64::MAX,
                timestamp: Timestamp::MAX,
                command: Command::Delete,
            },
        );
        self.add(
            "for the inbox",
            ToReplica::Query { id: 1, timestamp: NOW, query: Query::Inbox { all: false, after: None, limit: 1000 } },
        );
        self.add("", ToReplica::Ping { sent: NOW });
        self.add("", ToReplica::PingPeers);
    }

    pub fn add_messages_to_clients(&mut self) {
        self.add("", ToClient::Welcome { version: 1, replica: replica("a"), clock: NOW, challenge: CHALLENGE });
        self.add("", ToClient::Closing { reason: CloseReason::Stopping });
        self.add("", ToClient::LoggedIn { account: account("alice") });
        self.add("", ToClient::LoginRefused { account: account("alice"), reason: LoginRefusal::BadProof });
        self.add(
            "of a command that took effect",
            ToClient::Answer {
                client: CLIENT,
                sequence: 24,
                uid: uid(1),
                answer: Answer::Done,
                metadata: metadata(Stability::Closed),
            },
        );
        self.add(
            "of a command that had no effect",
            ToClient::Answer {
                client: CLIENT,
                sequence: 25,
                uid: uid(2),
                answer: Answer::Rejected { reason: Rejection::NoSuchUser { name: account("bob") } },
                metadata: metadata(Stability::RealTime),
            },
        );
        self.add(
            "with a page of messages",
            ToClient::QueryAnswer {
                id: 1,
                answer: QueryAnswer::Messages {
                    messages: vec![message(1, "one"), message(2, "two")],
                    earlier: false,
                    later: true,
                },
                metadata: metadata(Stability::RealTime),
            },
        );
        for (detail, request) in [
            ("a command", RequestId::Command { client: CLIENT, sequence: 24 }),
            ("a query", RequestId::Query { id: 1 }),
        ] {
            self.add(detail, ToClient::Refused { request, timestamp: NOW, reason: Refusal::Late, clock: NOW.next() });
        }
        self.add("", ToClient::Delivery { message: message(1, "line one\nline two \u{1f44b}") });
        self.add("", ToClient::Pong { sent: NOW, clock: NOW.next() });
        self.add("two peers", ToClient::PeersPinged { sent: NOW, peers: vec![replica("b"), replica("c")] });
        let (clock, received) = (NOW.next(), NOW.next().next());
        self.add("", ToClient::PeerPong { peer: replica("b"), sent: NOW, clock, received });
        self.add("", ToClient::InboxChanged);
        let news = RoomNews { room: room("#ops"), uid: uid(1), by: account("alice"), action: RoomAction::Join };
        self.add("", ToClient::RoomNews { news });
        self.add("", ToClient::LoggedOut { account: account("alice"), key: secret_key().public() });
    }

    pub fn add_commands_and_queries(&mut self) {
        let create = |invitation| Command::Create { name: account("alice"), key: secret_key().public(), invitation };
        self.add("without an invitation", create(None));
        self.add("with an invitation", create(Some(code())));
        self.add("", Command::Delete);
        self.add("", send("hello, bob"));
        self.add("of a longer text", send(&"na\u{ef}ve ".repeat(40)));
        self.add("to a room", Command::Send { to: ops(), text: MessageText::parse("hello, all").expect("a text") });
        let two = ReadRange::of(&[uid(1), uid(2)]).expect("there are two");
        self.add("of two messages", Command::Read { conversation: bob(), range: two });
        self.add("", Command::Room { room: room("#ops"), action: RoomAction::Join });
        self.add("", Command::Block { name: account("bob"), is_blocked: true });
        self.add("", Command::Mute { conversation: ops(), is_muted: false });
        self.add("", Command::SetKey { key: secret_key().public() });

        self.add_operations();

        let list = |after| Query::List { pattern: Pattern::parse("a*_?").expect("a pattern"), after, limit: 1000 };
        self.add("from the beginning", list(None));
        self.add("after a name", list(Some(account("alice"))));
        let inbox = |all, after| Query::Inbox { all, after, limit: 23 };
        self.add("of what is unread", inbox(false, None));
        self.add("of all after a place", inbox(true, Some(InboxPlace::new(vec![b'd', 1, 2]))));
        let pages =
            [Page::Latest, Page::Before { uid: uid(1) }, Page::After { uid: uid(1) }, Page::Around { uid: uid(1) }];
        for page in pages {
            self.add("", page);
            self.add("", Query::History { conversation: bob(), page, limit: 256 });
        }
        self.add("", Page::Unread { after: Uid::MIN });
        self.add("in a room", Query::History { conversation: ops(), page: Page::Latest, limit: u16::MAX });
        let pattern = Pattern::parse("o*").expect("a pattern");
        self.add("", Query::Rooms { pattern, after: Some(room("#ops")), limit: 255 });
        self.add("", Query::Members { room: room("#ops"), after: Some(uid(1)), limit: 255 });
        self.add("", Query::Blocked);

        self.add("", bob());
        self.add("", ops());
        self.add("", Conversation::Former { name: account("bob"), account: uid(3) });
        self.add_rooms();
    }

    fn add_rooms(&mut self) {
        let name = account("bob");
        self.add("public", RoomAction::Create { is_private: false });
        self.add("private", RoomAction::Create { is_private: true });
        self.add("", RoomAction::Join);
        self.add("", RoomAction::Leave);
        self.add("", RoomAction::Invite { name: name.clone() });
        self.add("", RoomAction::Remove { name: name.clone() });
        self.add("", RoomAction::SetTopic { topic: Topic::parse("what runs").expect("a topic") });
        self.add("to none", RoomAction::SetTopic { topic: Topic::none() });
        self.add("", RoomAction::GiveTo { name: name.clone() });
        self.add("", RoomAction::Close);
        for standing in [Standing::Stranger, Standing::Invited, Standing::Member] {
            self.add("", standing);
        }
        let entry = |conversation, is_muted| InboxEntry {
            conversation,
            unread: 24,
            last: uid(1),
            is_muted,
            is_request: !is_muted,
        };
        let entries = vec![entry(bob(), false), entry(ops(), true)];
        let invitations = vec![RoomInvitation { room: room("#plans"), by: name.clone(), uid: uid(2) }];
        let next = Some(InboxPlace::new(vec![b'r', 1]));
        self.add("", QueryAnswer::Inbox { entries, invitations, next });
        let info = RoomInfo {
            name: room("#ops"),
            is_private: false,
            members: 256,
            owner: account("alice"),
            topic: Topic::none(),
            standing: Standing::Member,
        };
        self.add("", QueryAnswer::Rooms { rooms: vec![info], next: None });
        let members = vec![Member { name, joined: uid(1) }];
        self.add("", QueryAnswer::Members { members, next: Some(uid(1)) });
    }

    fn add_operations(&mut self) {
        let invitation = code().digest();
        let (name, key) = (account("bob"), secret_key().public());
        self.add("", Operation::SetRegistration { registration: Registration::ByInvitation });
        self.add("", Operation::Invite { invitation });
        self.add("", Operation::Revoke { invitation });
        self.add("of accounts", Operation::SetQuota { quota: Quota::Accounts, limit: 1_000_000 });
        self.add("of unread messages", Operation::SetQuota { quota: Quota::Unread, limit: 65_536 });
        self.add("", Operation::RemoveAccount { name: name.clone() });
        self.add("", Operation::ReplaceKey { name, key });
        self.add("", Operation::CloseRoom { room: room("#ops") });
        self.add("", Operation::SetRetention { seconds: 7_776_000 });
        self.add("of unanswered conversations", Operation::SetQuota { quota: Quota::Requests, limit: 1000 });
        self.add("", Command::Operate { operation: Operation::Invite { invitation } });
        for registration in [Registration::Open, Registration::ByInvitation, Registration::Closed] {
            self.add("", registration);
        }
        self.add("", Quota::Accounts);
        self.add("", Quota::Unread);
        self.add("", Quota::Requests);
        self.add("", Query::Settings);
        let open = |opened| OpenInvitation { invitation, opened };
        let settings = Settings {
            registration: Registration::ByInvitation,
            accounts: 24,
            accounts_max: 1_000_000,
            unread_max: 200_000,
            requests_max: 1000,
            retention_seconds: 0,
        };
        self.add("", QueryAnswer::Settings { settings, invitations: vec![open(None), open(Some(NOW))] });
    }

    pub fn add_answers(&mut self) {
        self.add("", Answer::Done);
        self.add("", Answer::Rejected { reason: Rejection::AlreadyExists { name: account("alice") } });
        self.add("", QueryAnswer::Rejected { reason: Rejection::LoginRequired });
        self.add("none", QueryAnswer::Accounts { names: vec![], next: None });
        self.add("none, but perhaps later", QueryAnswer::Accounts { names: vec![], next: Some(account("amy")) });
        let names = vec![account("alice"), account("amy")];
        self.add("two", QueryAnswer::Accounts { names, next: Some(account("amy")) });
        self.add("none", QueryAnswer::Messages { messages: vec![], earlier: false, later: false });
        let one = QueryAnswer::Messages { messages: vec![message(1, "one")], earlier: true, later: false };
        self.add("one", one);

        self.add("", Rejection::AlreadyExists { name: account("alice") });
        self.add("", Rejection::NoSuchUser { name: account("a0_b-c") });
        self.add("", Rejection::NotOwner { name: account("alice") });
        self.add("", Rejection::LoginRequired);
        self.add("", Rejection::TooManyUnread { name: account(&"x".repeat(32)) });
        self.add("", Rejection::NotYourSession);
        self.add("", Rejection::OutOfSequence { expected: 65_536 });
        self.add("", Rejection::AnswerForgotten);
        self.add("", Rejection::TooMany);
        self.add("", Rejection::DifferentCommand);
        self.add("", Rejection::RegistrationClosed);
        self.add("", Rejection::InvitationNeeded);
        self.add("", Rejection::NoSuchInvitation);
        self.add("", Rejection::NotAnOperator);
        self.add("", Rejection::TooManyAccounts);
        let room = || super::samples::room("#ops");
        self.add("", Rejection::NoSuchRoom { room: room() });
        self.add("", Rejection::NotAMember { room: room() });
        self.add("", Rejection::RoomExists { room: room() });
        self.add("", Rejection::RoomFull { room: room() });
        self.add("", Rejection::TooManyRooms);
        self.add("", Rejection::NotRoomOwner { room: room() });
        self.add("", Rejection::NoSuchMember { name: account("bob"), room: room() });
        self.add("", Rejection::Outdated);
        self.add("", Rejection::NoRange);
        self.add("", Rejection::TooManyRanges);
        self.add("", Rejection::TooManyRequests);
        self.add("", Rejection::NoConversation { conversation: bob() });
    }

    pub fn add_small_enums(&mut self) {
        self.add("", Role::Client);
        self.add("", replica_role());
        self.add("", LoginProof::Signature { signature: Signature([0x5a; 64]) });
        self.add("", LoginRefusal::BadProof);
        self.add("", LoginRefusal::TooManyKeys { wait_ms: 30_000 });
        self.add("", LoginRefusal::NotAnOperator);
        self.add("", RequestId::Command { client: CLIENT, sequence: 256 });
        self.add("", RequestId::Query { id: 23 });
        for refusal in [Refusal::Late, Refusal::Ahead, Refusal::NotServing, Refusal::Overloaded, Refusal::NoRoom] {
            self.add("", refusal);
        }
        self.add("", Refusal::TooFast { wait_ms: 1000 });
        self.add("", Refusal::LoginRefused);
        self.add("", Stability::Closed);
        self.add("", Stability::RealTime);

        self.add("", CloseReason::NotStablechat);
        self.add("", CloseReason::Version { version_min: 1, version_max: u16::MAX });
        self.add("", CloseReason::WrongCluster { cluster: ClusterName::parse("prod").expect("a name") });
        self.add("", CloseReason::Malformed { detail: "9 is not a tag of ToReplica".to_string() });
        self.add("", CloseReason::TooLarge { length: u64::from(u32::MAX), limit: 1024 * 1024 });
        self.add("", CloseReason::OutOfPlace { detail: "a second hello".to_string() });
        self.add("", CloseReason::Silent);
        self.add("", CloseReason::SlowReader);
        self.add("", CloseReason::Stopping);
        self.add("", CloseReason::Full);
        self.add("", CloseReason::OtherClusterFile);
        self.add("", CloseReason::NotCertified);
    }
}

/// The conversation in a room.
fn ops() -> Conversation {
    Conversation::Room { name: room("#ops") }
}

/// The role in the hello of a replica.
fn replica_role() -> Role {
    Role::Replica { name: replica("a"), cluster_file: Digest([0xcf; 32]) }
}
