//! The checks of the final state, when everything is answered and applied.

use super::checks::{Checks, Place, check_store};
use super::client::Client;
use super::history::{self, Audiences};
use super::label::Label;
use super::node::{self, Node};
use super::{Check, Mode, Violation};
use stablechat_protocol::answer::{Answer, QueryAnswer};
use stablechat_protocol::command::{PAGE_MAX, Query};
use stablechat_protocol::conversation::{Conversation, Message, Page};
use stablechat_protocol::name::AccountName;
use stablechat_protocol::request::{Actor, QueryRequest, Request};
use stablechat_protocol::room::RoomName;
use stablechat_protocol::uid::Uid;
use stablechat_server::store::{ChatStore, in_own_session};
use std::collections::{BTreeMap, BTreeSet};

/// Checks the final state of all replicas and clients.
pub fn check(checks: &Checks, nodes: &[Node], clients: &[Client], mode: Mode) -> Check {
    let lasting: Vec<&Client> = clients.iter().filter(|client| client.lasting).collect();
    let mut digests = BTreeSet::new();
    for (node, process) in nodes.iter().enumerate() {
        let Some(store) = process.store().filter(|_| process.is_serving()) else {
            return Err(Violation::at(node, "it does not serve in the end"));
        };
        check_log(checks, node)?;
        digests.insert((store.applied().log_digest, store.applied().state_digest));
    }
    if digests.len() != 1 {
        return Err(Violation::among_all("the replicas end with different digests"));
    }
    let stores = nodes.iter().filter_map(Node::store).enumerate();
    let (specification, audiences) = history::check(checks)?;
    for (node, store) in stores {
        check_store(node, store)?;
        history::check_state(node, store, &specification)?;
        for (number, one) in lasting.iter().enumerate() {
            for other in &lasting[number + 1..] {
                check_timeline(checks, node, store, &owner(node, store, one)?, &owner(node, store, other)?)?;
            }
        }
        lasting.iter().try_for_each(|client| check_messages_of(node, store, client, clients))?;
    }
    if mode == Mode::Bounds {
        check_audiences(checks, clients, &audiences)?;
    }
    if mode == Mode::Bounds { checks.check_order() } else { Ok(()) }
}

/// Checks that a replica's log has everything that was answered, and is the same as the first replica's.
fn check_log(checks: &Checks, node: usize) -> Check {
    let (seen, first) = (&checks.seen[node], &checks.seen[0]);
    if let Some((client, sequence)) = checks.answered.iter().find(|request| !seen.effects.contains_key(request)) {
        return Err(Violation::at(node, format!("{client} {sequence} is answered, but took no effect")));
    }
    let differ = seen.log.iter().zip(&first.log).position(|(one, other)| one != other);
    let differ = differ.or((seen.log.len() != first.log.len()).then(|| seen.log.len().min(first.log.len())));
    match differ {
        Some(position) => {
            let (ours, theirs) = (seen.log.get(position), first.log.get(position));
            Err(Violation::among_all(format!(
                "position {position} is {ours:?} at {} and {theirs:?} at {}; {} and {} in all",
                node::name(node),
                node::name(0),
                seen.log.len(),
                first.log.len()
            )))
        }
        None => Ok(()),
    }
}

/// Checks that the timeline of two accounts has the messages that took effect, each once, and those of a session in order.
fn check_timeline(checks: &Checks, node: usize, store: &ChatStore, one: &Actor, other: &Actor) -> Check {
    let seen = &checks.seen[node];
    let (mut last, mut senders) = (BTreeMap::new(), BTreeSet::new());
    let timeline = timeline(node, store, one, other)?;
    for message in &timeline {
        let (text, uid) = (&message.text, message.uid);
        let Some(Place::Next(client, sequence)) = seen.places.get(&uid) else {
            return Err(Violation::at(node, format!("message {text} ({uid}) is there, but took no effect")));
        };
        let label = Label::of(text);
        if !senders.insert(label.clone()) {
            return Err(Violation::at(node, format!("message {text} comes twice")));
        }
        if label != Label::at(*client, *sequence) {
            // An orphan whose session cannot take it any more is in a session of its own, without an order.
            let is_orphan = |request: &Request| {
                label == Label::at(request.client, request.sequence) && in_own_session(request).client == *client
            };
            if checks.requests.values().any(is_orphan) {
                continue;
            }
            return Err(Violation::at(node, format!("message {uid} says {text}, not {client} {sequence}")));
        }
        if last.insert(label.session, label.sequence).is_some_and(|before| before >= label.sequence) {
            return Err(Violation::at(node, format!("message {text} comes too late")));
        }
    }
    let uids: BTreeSet<Uid> = timeline.iter().map(|message| message.uid).collect();
    let between = |from: &AccountName, to: &Conversation| {
        let is = |one: &Actor, other: &Actor| *from == one.account && *to == Conversation::with(&other.account);
        is(one, other) || is(other, one)
    };
    for ((client, sequence), effect) in &seen.effects {
        let is_between = effect.message.as_ref().is_some_and(|(from, to)| between(from, to));
        let is_sent = effect.answer == Some(Answer::Done) && is_between;
        if is_sent && !uids.contains(&effect.uid) {
            return Err(Violation::at(node, format!("message {client} {sequence} is answered, but not there")));
        }
    }
    Ok(())
}

/// Checks that every message of the conversations of a client's account was shown on one of its devices, or is unread and so will be.
/// What was said in a room before it (last) joined does not concern it.
fn check_messages_of(node: usize, store: &ChatStore, client: &Client, clients: &[Client]) -> Check {
    let owner = owner(node, store, client)?;
    let devices: Vec<&Client> = clients.iter().filter(|other| other.actor.account == owner.account).collect();
    for conversation in conversations(node, store, &owner)? {
        let joined = match &conversation {
            Conversation::Room { name } => joined(node, store, &owner, name)?,
            _ => Uid::MIN,
        };
        let page = |page| Query::History { conversation: conversation.clone(), page, limit: PAGE_MAX };
        let unread = self::page(node, store, &owner, page(Page::Unread { after: Uid::MIN }))?;
        let is_unread = |message: &Message| unread.iter().any(|unread| unread.uid == message.uid);
        let is_shown = |message: &Message| devices.iter().any(|device| device.shown.contains(&message.uid));
        for message in self::page(node, store, &owner, page(Page::Latest))? {
            let is_of_another = message.from != owner.account && message.uid > joined;
            let (uid, account) = (message.uid, &owner.account);
            if is_of_another && !is_shown(&message) && !is_unread(&message) {
                let what = format!("message {uid} to {account} in {conversation} is neither shown nor unread");
                return Err(Violation::at(node, what));
            }
            // It has been listening for a while, unless the account has another key than its own.
            if is_of_another && is_unread(&message) && client.actor == owner && !client.shown.contains(&uid) {
                let what = format!("message {uid} to {account} in {conversation} is unread, and was not shown");
                return Err(Violation::at(node, what));
            }
        }
    }
    Ok(())
}

/// Checks that each message was delivered to none but those who took part in its conversation.
fn check_audiences(checks: &Checks, clients: &[Client], audiences: &Audiences) -> Check {
    for (client, uid) in &checks.delivered {
        let Some(client) = clients.get(*client) else { continue };
        let account = &client.actor.account;
        if audiences.get(uid).is_some_and(|audience| !audience.contains(account)) {
            let what = format!("message {uid} was delivered to {account}, who takes no part in its conversation");
            return Err(Violation::among_all(what));
        }
    }
    Ok(())
}

/// The owner of a client's account.
fn owner(node: usize, store: &ChatStore, client: &Client) -> Check<Actor> {
    client.owner(store).map_err(|error| Violation::at(node, error.to_string()))
}

/// All messages between two accounts, oldest first; none where one of them is missing.
fn timeline(node: usize, store: &ChatStore, one: &Actor, other: &Actor) -> Check<Vec<Message>> {
    let conversation = Conversation::with(&other.account);
    page(node, store, one, Query::History { conversation, page: Page::Latest, limit: PAGE_MAX })
}

/// The conversations of an account.
fn conversations(node: usize, store: &ChatStore, actor: &Actor) -> Check<Vec<Conversation>> {
    match ask(node, store, actor, Query::Inbox { all: true, after: None, limit: PAGE_MAX })? {
        QueryAnswer::Inbox { entries, next: None, .. } => {
            Ok(entries.into_iter().map(|entry| entry.conversation).collect())
        }
        QueryAnswer::Rejected { .. } => Ok(Vec::new()),
        answer => Err(Violation::at(node, format!("{} gets {answer:?}", actor.account))),
    }
}

/// The request by which an account joined a room.
fn joined(node: usize, store: &ChatStore, actor: &Actor, room: &RoomName) -> Check<Uid> {
    let query = Query::Members { room: room.clone(), after: None, limit: PAGE_MAX };
    let answer = ask(node, store, actor, query)?;
    let member = match &answer {
        QueryAnswer::Members { members, .. } => members.iter().find(|member| member.name == actor.account),
        _ => None,
    };
    let joined = member.map(|member| member.joined);
    joined.ok_or_else(|| Violation::at(node, format!("{} is no member of {room}: {answer:?}", actor.account)))
}

/// The messages that answer a query. Runs are short enough for one page.
fn page(node: usize, store: &ChatStore, actor: &Actor, query: Query) -> Check<Vec<Message>> {
    match ask(node, store, actor, query)? {
        QueryAnswer::Messages { messages, earlier: false, later: false } => Ok(messages),
        QueryAnswer::Rejected { .. } => Ok(Vec::new()),
        answer => Err(Violation::at(node, format!("{} gets {answer:?}", actor.account))),
    }
}

/// The answer to a query of an account.
fn ask(node: usize, store: &ChatStore, actor: &Actor, query: Query) -> Check<QueryAnswer> {
    let query = QueryRequest { id: 0, actor: Some(actor.clone()), query };
    store.query(&query).map_err(|error| Violation::at(node, error.to_string()))
}

/// The replicas' digests, as text.
pub fn fingerprint(nodes: &[Node]) -> String {
    let mut text = String::new();
    for (index, store) in nodes.iter().enumerate().filter_map(|(index, process)| Some((index, process.store()?))) {
        let applied = store.applied();
        text += &format!("{} {} {} ", node::name(index), applied.log_digest, applied.state_digest);
    }
    text
}
