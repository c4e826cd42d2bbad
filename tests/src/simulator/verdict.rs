//! The checks of the final state, when everything is answered and applied.

use super::checks::{Checks, Place, check_store};
use super::client::Client;
use super::history;
use super::label::Label;
use super::node::{self, Node};
use super::{Check, Mode, Violation};
use stablechat_protocol::answer::{Answer, Message, QueryAnswer};
use stablechat_protocol::command::{PAGE_MAX, Query, Recipient};
use stablechat_protocol::request::{Actor, QueryRequest, Request};
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
    let specification = history::check(checks)?;
    for (node, store) in stores {
        check_store(node, store)?;
        history::check_state(node, store, &specification)?;
        for (number, one) in lasting.iter().enumerate() {
            for other in &lasting[number + 1..] {
                check_timeline(checks, node, store, &owner(node, store, one)?, &owner(node, store, other)?)?;
            }
        }
        lasting.iter().try_for_each(|client| check_messages_of(checks, node, store, client))?;
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
    let both = [&one.account, &other.account];
    for ((client, sequence), effect) in &seen.effects {
        let is_between = |parties: &(_, _)| both.contains(&&parties.0) && both.contains(&&parties.1);
        let is_sent = effect.answer == Some(Answer::Done) && effect.message.as_ref().is_some_and(is_between);
        if is_sent && !uids.contains(&effect.uid) {
            return Err(Violation::at(node, format!("message {client} {sequence} is answered, but not there")));
        }
    }
    Ok(())
}

/// Checks that every message to a client was shown, or is unread and so will be.
fn check_messages_of(checks: &Checks, node: usize, store: &ChatStore, client: &Client) -> Check {
    let seen = &checks.seen[node];
    let unread: BTreeSet<Uid> =
        unread(node, store, &owner(node, store, client)?)?.iter().map(|message| message.uid).collect();
    for effect in seen.effects.values().filter(|effect| effect.answer == Some(Answer::Done)) {
        let is_to_it = effect.message.as_ref().is_some_and(|(_, to)| *to == client.actor.account);
        if is_to_it && !client.shown.contains(&effect.uid) && !unread.contains(&effect.uid) {
            let what = format!("message {} to {} is neither shown nor unread", effect.uid, client.actor.account);
            return Err(Violation::at(node, what));
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
    let with = Recipient::Account { name: other.account.clone() };
    let query = Query::History { with, before: None, limit: PAGE_MAX };
    page(node, store, one, query)
}

/// An account's unread messages.
fn unread(node: usize, store: &ChatStore, actor: &Actor) -> Check<Vec<Message>> {
    page(node, store, actor, Query::Unread { after: None, limit: PAGE_MAX })
}

/// The messages that answer a query. Runs are short enough for one page.
fn page(node: usize, store: &ChatStore, actor: &Actor, query: Query) -> Check<Vec<Message>> {
    let query = QueryRequest { id: 0, actor: Some(actor.clone()), query };
    match store.query(&query).map_err(|error| Violation::at(node, error.to_string()))? {
        QueryAnswer::Messages { messages, more: false } => Ok(messages),
        QueryAnswer::Rejected { .. } => Ok(Vec::new()),
        answer => Err(Violation::at(node, format!("{} gets {answer:?}", actor.account))),
    }
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
