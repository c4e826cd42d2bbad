use super::*;
use stablechat_protocol::text::MessageText;
use stablechat_protocol::time::Timestamp;

fn name(name: &str) -> AccountName {
    AccountName::parse(name).expect("a name")
}

fn with(other: &str) -> Conversation {
    Conversation::with(&name(other))
}

/// A message to bob, whose time is its position as well.
fn message(from: &str, time: u64) -> Message {
    message_at(from, time, time)
}

fn message_at(from: &str, time: u64, position: u64) -> Message {
    let text = MessageText::parse("x").expect("a text");
    Message { uid: Uid::new(Timestamp(time), from.as_bytes()), position, from: name(from), to: with("bob"), text }
}

fn entry(other: &str) -> InboxEntry {
    InboxEntry { conversation: with(other), unread: 1, last: Uid::MIN, is_muted: false, is_request: false }
}

/// An inbox of bob, who has fetched nothing.
fn inbox() -> Inbox {
    Inbox::new(name("bob"))
}

fn times(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(|message| message.uid.timestamp.0).collect()
}

/// The times at the ends of the next range, and the number of messages in it.
fn next(inbox: &mut Inbox) -> Option<(Conversation, u64, u64)> {
    let (conversation, range) = inbox.next_range()?;
    Some((conversation, range.up_to.timestamp.0, range.count))
}

/// Has the next range read.
fn read(inbox: &mut Inbox) -> Option<u64> {
    let (conversation, range) = inbox.next_range()?;
    inbox.on_read(&conversation, &range);
    Some(range.count)
}

#[test]
fn copies_are_shown_once() {
    let mut inbox = inbox();
    assert!(inbox.on_push(message("ann", 1)).is_some());
    assert!(inbox.on_push(message("ann", 1)).is_none());
    assert!(inbox.on_push(message("ann", 2)).is_some());
    assert!(inbox.on_push(message("ann", 1)).is_none());
}

#[test]
fn conversations_are_fetched_one_after_the_other_while_pushes_wait() {
    let mut inbox = inbox();
    inbox.begin();
    assert_eq!(inbox.query(), Some(Query::Inbox { all: false, after: None, limit: PAGE_MAX }));
    for pushed in [message("ann", 9), message("ann", 3), message("cid", 8), message("ann", 9)] {
        assert!(inbox.on_push(pushed).is_none());
    }
    let place = InboxPlace::new(vec![1]);
    assert!(inbox.on_list(vec![entry("ann")], Some(place.clone())).is_empty());
    assert_eq!(inbox.query(), Some(Query::Inbox { all: false, after: Some(place), limit: PAGE_MAX }));
    assert!(inbox.on_list(vec![entry("dan")], None).is_empty());
    assert_eq!(inbox.query(), Some(Query::Blocked));
    assert!(inbox.on_blocked(vec![]).is_empty());

    let page = |conversation, after| Query::History { conversation, page: Page::Unread { after }, limit: PAGE_MAX };
    assert_eq!(inbox.query(), Some(page(with("ann"), Uid::MIN)));
    assert_eq!(times(&inbox.on_page(vec![message("ann", 1), message("ann", 2)], true)), [1, 2]);
    assert_eq!(inbox.query(), Some(page(with("ann"), message("ann", 2).uid)));
    assert_eq!(times(&inbox.on_page(vec![message("ann", 3)], false)), [3]);
    assert_eq!(inbox.query(), Some(page(with("dan"), Uid::MIN)));
    assert_eq!(times(&inbox.on_page_rejected()), [8, 9]);
    assert_eq!((inbox.query(), inbox.is_fetching()), (None, false));
}

#[test]
fn messages_beyond_the_limit_are_fetched() {
    let mut inbox = inbox();
    inbox.begin();
    (1..=WAITING_MAX as u64 + 1).for_each(|time| assert!(inbox.on_push(message("ann", time)).is_none()));
    assert!(inbox.on_list(vec![], None).is_empty() && inbox.on_blocked(vec![]).is_empty());
    assert_eq!(inbox.query(), Some(Query::Inbox { all: false, after: None, limit: PAGE_MAX }), "once more");
    assert!(inbox.on_list(vec![entry("ann")], None).is_empty() && inbox.on_blocked(vec![]).is_empty());
    let last = WAITING_MAX as u64 + 1;
    assert_eq!(
        times(&inbox.on_page((1..=last).map(|time| message("ann", time)).collect(), false)).len(),
        WAITING_MAX + 1
    );
    assert!(!inbox.is_fetching());
}

#[test]
fn consecutive_messages_are_read_together_and_one_range_at_a_time() {
    let mut inbox = inbox();
    for time in [1, 2, 3, 6, 7] {
        inbox.on_push(message("ann", time));
    }
    inbox.on_push(message("cid", 4));
    let (conversation, range) = inbox.next_range().expect("three messages");
    assert_eq!((&conversation, range.count), (&with("ann"), 3));
    assert_eq!(next(&mut inbox), Some((with("cid"), 4, 1)));
    assert_eq!(next(&mut inbox), None, "a range of each is being read");
    inbox.on_push(message("ann", 8));
    inbox.on_read(&conversation, &range);
    assert_eq!(next(&mut inbox), Some((with("ann"), 8, 3)));
}

#[test]
fn one_s_own_messages_are_read_with_those_before_them_and_shown_unless_sent_here() {
    let mut inbox = inbox();
    let own = |time| Message { from: name("bob"), to: with("ann"), ..message("bob", time) };
    assert!(inbox.on_push(own(1)).is_some(), "it was sent elsewhere");
    assert!(!inbox.has_unread());
    inbox.on_sent(own(2).uid.digest);
    assert!(inbox.on_push(own(2)).is_none() && !inbox.has_unread());
    inbox.on_push(message("ann", 3));
    assert!(inbox.on_push(own(4)).is_none());
    assert_eq!(next(&mut inbox), Some((with("ann"), 4, 2)));
}

#[test]
fn after_a_rejection_only_what_was_inserted_is_shown_and_all_is_read_anew() {
    let mut inbox = inbox();
    for (time, position) in [(1, 1), (2, 2), (5, 3)] {
        inbox.on_push(message_at("ann", time, position));
    }
    assert_eq!(next(&mut inbox), Some((with("ann"), 5, 3)));
    assert!(inbox.on_rejected(&with("ann"), &Rejection::Outdated));
    assert_eq!(next(&mut inbox), None, "it is fetched first");
    let unread = [(1, 1), (2, 2), (4, 3), (5, 4)].map(|(time, position)| message_at("ann", time, position));
    assert_eq!(times(&inbox.on_page(unread.to_vec(), false)), [4]);
    assert_eq!(read(&mut inbox), Some(4));
    assert!(!inbox.has_unread());
}

#[test]
fn what_another_device_has_read_is_not_read_again() {
    let mut inbox = inbox();
    (1..4).for_each(|time| drop(inbox.on_push(message("ann", time))));
    assert_eq!(next(&mut inbox), Some((with("ann"), 3, 3)));
    inbox.on_rejected(&with("ann"), &Rejection::Outdated);
    assert!(inbox.on_page(Vec::new(), false).is_empty());
    assert!(!inbox.has_unread() && !inbox.is_fetching());
}

#[test]
fn a_conversation_that_is_over_is_let_go_and_looked_for_under_another_name() {
    let mut inbox = inbox();
    inbox.on_push(message("ann", 1));
    assert!(inbox.next_range().is_some());
    assert!(!inbox.on_rejected(&with("ann"), &Rejection::NoSuchUser { name: name("ann") }));
    assert!(!inbox.has_unread() && inbox.is_fetching());
    let former = Conversation::Former { name: name("ann"), account: Uid::MIN };
    inbox.on_list(vec![InboxEntry { conversation: former.clone(), ..entry("ann") }], None);
    inbox.on_blocked(vec![]);
    assert!(inbox.on_page(vec![message("ann", 1)], false).is_empty(), "it was shown");
    assert_eq!(next(&mut inbox), Some((former, 1, 1)));
}

/// Has bob's inbox listed with these entries.
fn list(inbox: &mut Inbox, entries: Vec<InboxEntry>) {
    inbox.begin();
    inbox.on_list(entries, None);
    inbox.on_blocked(vec![]);
}

#[test]
fn messages_of_later_pages_that_were_not_handled_stay_so() {
    let mut inbox = inbox();
    inbox.read_by_hand();
    for _ in 0..2 {
        list(&mut inbox, vec![entry("ann")]);
        inbox.on_page(vec![message("ann", 1), message("ann", 2)], true);
        inbox.on_page(vec![message("ann", 3), message("ann", 4)], false);
        assert_eq!(inbox.next_range(), None, "nothing was handled");
    }
    inbox.on_handled(message("ann", 1).uid);
    inbox.on_handled(message("ann", 2).uid);
    assert_eq!(next(&mut inbox), Some((with("ann"), 2, 2)));
}

#[test]
fn an_unread_message_is_shown_however_many_newer_ones_were() {
    let mut inbox = inbox();
    for time in 2..2 + SHOWN_MAX as u64 {
        inbox.on_push(message("ann", time));
    }
    list(&mut inbox, vec![entry("cid")]);
    assert_eq!(times(&inbox.on_page(vec![message("cid", 1)], false)), [1]);
    // One that is pushed may have been shown: the answer to a query tells.
    assert!(inbox.on_push(message("dan", 1)).is_none());
    let page = Page::Unread { after: Uid::MIN };
    assert_eq!(inbox.query(), Some(Query::History { conversation: with("dan"), page, limit: PAGE_MAX }));
}

#[test]
fn a_fetch_goes_no_further_with_conversations_that_are_hidden() {
    let mut inbox = inbox();
    list(&mut inbox, vec![entry("ann"), entry("cid"), entry("dan")]);
    inbox.set_scope(Scope::Only(BTreeSet::from([with("dan")])));
    assert_eq!(times(&inbox.on_page(vec![message("ann", 1)], true)), [0; 0], "it was asked for before");
    assert_eq!(times(&inbox.on_page(vec![message("dan", 2)], false)), [2]);
    assert!(!inbox.is_fetching());
}

/// How many messages are unread in conversations that are not shown.
fn elsewhere(inbox: &Inbox) -> u64 {
    inbox.elsewhere().map(|(_, unread)| unread).sum()
}

#[test]
fn conversations_that_are_not_shown_are_counted_and_stay_unread() {
    let mut inbox = inbox();
    inbox.set_scope(Scope::Only(BTreeSet::from([with("ann")])));
    let listed = InboxEntry { unread: 5, last: message("cid", 3).uid, ..entry("cid") };
    list(&mut inbox, vec![listed, InboxEntry { unread: 0, ..entry("dan") }]);
    assert!(!inbox.is_fetching());
    assert!(inbox.on_push(message("ann", 7)).is_some());
    for again in [message("cid", 3), message("cid", 8), message("cid", 8), message("dan", 9)] {
        assert!(inbox.on_push(again).is_none());
    }
    assert_eq!(elsewhere(&inbox), 7);
    assert_eq!(read(&mut inbox), Some(1));
    assert!(!inbox.has_unread());

    // Then they are shown after all.
    inbox.set_scope(Scope::All);
    list(&mut inbox, vec![entry("cid"), entry("dan")]);
    assert_eq!(times(&inbox.on_page((4..9).map(|time| message("cid", time)).collect(), false)), [4, 5, 6, 7, 8]);
    assert_eq!(times(&inbox.on_page(vec![message("dan", 9)], false)), [9]);
    assert_eq!(elsewhere(&inbox), 0);
}

#[test]
fn muted_conversations_are_neither_shown_nor_counted() {
    let mut inbox = inbox();
    list(&mut inbox, vec![InboxEntry { is_muted: true, ..entry("ann") }]);
    assert!(inbox.on_push(message("ann", 1)).is_none());
    assert_eq!((elsewhere(&inbox), inbox.has_unread(), inbox.is_fetching()), (0, false, false));
    // Whoever asks for it sees it.
    inbox.set_scope(Scope::Only(BTreeSet::from([with("ann")])));
    assert!(inbox.on_push(message("ann", 2)).is_some());
}

#[test]
fn what_blocked_accounts_say_in_rooms_is_read_unseen() {
    let mut inbox = inbox();
    inbox.begin();
    inbox.on_list(vec![], None);
    inbox.on_blocked(vec![name("mallory")]);
    let room: Conversation = "#ops".parse().expect("a name");
    let says = |from, time| Message { to: room.clone(), ..message(from, time) };
    assert!(inbox.on_push(says("ann", 1)).is_some());
    assert!(inbox.on_push(says("mallory", 2)).is_none());
    assert_eq!(next(&mut inbox), Some((room, 2, 2)));
}

#[test]
fn messages_that_are_handled_one_by_one_are_read_one_by_one() {
    let mut inbox = inbox();
    inbox.read_by_hand();
    for time in 1..4 {
        assert!(inbox.on_push(message("ann", time)).is_some());
    }
    assert_eq!(next(&mut inbox), None);
    inbox.on_handled(message("ann", 2).uid);
    assert_eq!(next(&mut inbox), None, "the one before is not");
    inbox.on_handled(message("ann", 1).uid);
    let (conversation, range) = inbox.next_range().expect("two");
    assert_eq!((range.up_to, range.count), (message("ann", 2).uid, 2));

    // After another fetch, handled messages are still handled, and the others are not.
    assert!(inbox.on_rejected(&conversation, &Rejection::Outdated));
    let unread = (1..5).map(|time| message("ann", time)).collect();
    assert_eq!(times(&inbox.on_page(unread, false)), [4]);
    assert_eq!(read(&mut inbox), Some(2));
    assert!(next(&mut inbox).is_none() && inbox.has_unread());
}

#[test]
fn what_was_being_read_in_a_lost_session_is_read_anew() {
    let mut inbox = inbox();
    inbox.on_push(message("ann", 1));
    assert!(inbox.next_range().is_some() && inbox.next_range().is_none());
    inbox.forget_reading();
    assert_eq!(read(&mut inbox), Some(1));
}

#[test]
fn the_memory_of_shown_messages_is_bounded_and_none_is_shown_twice() {
    let mut inbox = inbox();
    (1..SHOWN_MAX as u64 + 10).for_each(|time| assert!(inbox.on_push(message("ann", time)).is_some()));
    assert_eq!(inbox.shown.len(), SHOWN_MAX);
    assert!(inbox.on_push(message("ann", 3)).is_none());
}
