//! A session whose links answer, refuse, die and return.

use super::*;
use stablechat_protocol::login::PublicKey;
use stablechat_protocol::name::AccountName;

const DELTA: Duration = Duration::from_millis(1000);
const START: Timestamp = Timestamp(1_000_000_000_000);

fn session(links: usize) -> Session {
    let mut session = Session::new(ClientId([1; 16]), None, DELTA);
    (0..links).for_each(|link| assert!(session.on_link_ready(link).is_empty()));
    session
}

fn at(milliseconds: u64) -> Timestamp {
    START.after(Duration::from_millis(milliseconds))
}

/// The uid of an attempt at request `sequence`, which deletes the account as almost all requests here do.
fn uid(sequence: u64, timestamp: Timestamp) -> Uid {
    uid_of(sequence, timestamp, Command::Delete)
}

fn uid_of(sequence: u64, timestamp: Timestamp, command: Command) -> Uid {
    Request { client: ClientId([1; 16]), sequence, actor: None, command }.uid(timestamp)
}

fn out_of_sequence(expected: u64) -> Answer {
    Answer::Rejected { reason: Rejection::OutOfSequence { expected } }
}

fn taken() -> Answer {
    Answer::Rejected { reason: Rejection::AlreadyExists { name: AccountName::parse("alice").expect("a name") } }
}

fn sequences(outgoing: &[Outgoing]) -> Vec<u64> {
    outgoing.iter().map(|outgoing| outgoing.sequence).collect()
}

#[test]
fn timestamps_increase_when_the_clock_jumps_back_and_exceed_those_seen() {
    let mut session = session(1);
    let first = session.issue(at(5), Command::Delete);
    let second = session.issue(at(5), Command::Delete);
    let third = session.issue(at(1), Command::Delete);
    assert_eq!((first.timestamp, second.timestamp), (at(5), at(5).next()));
    assert_eq!(third.timestamp, second.timestamp.next());
    session.observe(at(7), at(60));
    assert_eq!(session.issue(at(7), Command::Delete).timestamp, at(60).next());
    assert_eq!(session.stamp(at(8)), at(60).next().next());
    assert_eq!(session.issue(at(70), Command::Delete).timestamp, at(70));
}

#[test]
fn a_time_far_ahead_that_one_replica_tells_is_not_believed() {
    let hour = at(3_600_000);
    let mut session = session(2);
    session.observe(at(5), hour);
    let sent = session.issue(at(6), Command::Delete);
    assert_eq!(sent.timestamp, at(6), "a message of one bad replica");

    assert_eq!(session.on_answer(at(7), 0, 1, uid(1, hour), &Answer::Done), AnswerKind::Answered);
    assert_eq!(session.stamp(at(8)), at(8), "an answer of one bad replica");
    assert!(session.on_changed(at(9), 1, uid(1, hour), &taken()).is_some());
    assert_eq!(session.stamp(at(10)), at(10), "an answer that changes at one bad replica");

    session.observe(at(11), at(1000));
    assert_eq!(session.stamp(at(11)), at(1000).next(), "what may be true is believed");
    session.observe(at(12), at(1010));
    session.observe(at(12), hour);
    assert_eq!(session.stamp(at(12)), at(1010).next(), "and an unbelievable time does not make it forget that");
}

#[test]
fn no_time_is_believed_that_lies_further_ahead_than_the_delivery_bound() {
    let mut session = Session::new(ClientId([1; 16]), None, Duration::from_millis(200));
    session.observe(at(0), at(200));
    session.observe(at(0), at(201));
    assert_eq!(session.highest(), at(200));
}

#[test]
fn timestamps_return_to_the_clock_when_it_was_corrected_wrongly() {
    let mut session = session(2);
    // At first only a replica is in reach whose clock is an hour ahead.
    session.set_clock_offset(3_600_000_000_000);
    let ahead = [session.issue(at(0), Command::Delete), session.issue(at(0), Command::Delete)];
    assert!(ahead[0].timestamp > at(3_000_000));
    session.set_clock_offset(0);
    for link in 0..2 {
        (1..=2).for_each(|sequence| {
            session.on_refused(at(1), link, sequence, ahead[sequence as usize - 1].timestamp, Duration::ZERO)
        });
    }
    let repeated = session.due(at(51));
    let timestamps: Vec<Timestamp> = repeated.iter().map(|outgoing| outgoing.timestamp).collect();
    assert_eq!(timestamps, [at(51), at(51).next()]);
    assert_eq!(session.issue(at(52), Command::Delete).timestamp, at(52));
}

#[test]
fn timestamps_of_queries_return_to_the_clock_when_it_was_corrected_wrongly() {
    let mut session = session(1);
    session.set_clock_offset(3_600_000_000_000);
    assert!(session.stamp(at(0)) > at(3_000_000));
    session.set_clock_offset(0);
    assert_eq!(session.stamp(at(1)), at(1));
}

#[test]
fn timestamps_are_corrected_and_time_limits_are_not() {
    let mut session = session(1);
    session.set_clock_offset(-5_000_000_000);
    assert_eq!(session.issue(at(10_000), Command::Delete).timestamp, at(5000));
    assert_eq!(session.deadline(), Some(at(13_000)));
    assert_eq!(session.due(at(13_000))[0].timestamp, at(8000));
}

#[test]
fn the_first_answer_counts_and_later_ones_are_compared() {
    let mut session = session(3);
    let sent = session.issue(at(0), Command::Delete);
    assert_eq!(session.on_answer(at(9), 1, 1, uid(1, sent.timestamp), &Answer::Done), AnswerKind::Answered);
    assert!(session.is_idle());
    assert_eq!(session.on_answer(at(9), 0, 1, uid(1, sent.timestamp), &Answer::Done), AnswerKind::Repeated);
    let differs = AnswerKind::Differs { link: 1, answer: Answer::Done };
    assert_eq!(session.on_answer(at(9), 2, 1, uid(1, sent.timestamp), &taken()), differs);
    let forgotten = Answer::Rejected { reason: Rejection::AnswerForgotten };
    assert_eq!(session.on_answer(at(9), 2, 1, uid(1, sent.timestamp), &forgotten), AnswerKind::Uninformative);
    assert_eq!(session.on_answer(at(9), 2, 7, uid(7, sent.timestamp), &taken()), AnswerKind::Uninformative);
    assert_eq!(session.deadline(), None);
}

#[test]
fn answers_to_another_command_under_the_same_number_are_told_apart() {
    let mut session = session(3);
    let sent = session.issue(at(5), Command::Delete);
    let other =
        |at| uid_of(1, at, Command::Block { name: AccountName::parse("nobody").expect("a name"), is_blocked: false });
    let different = Answer::Rejected { reason: Rejection::DifferentCommand };

    // The other one is answered first: at one replica it came first, at the other it came second.
    for (link, answer) in [(0, &Answer::Done), (1, &different), (2, &out_of_sequence(1))] {
        assert_eq!(session.on_answer(at(6), link, 1, other(at(4)), answer), AnswerKind::Foreign);
    }
    assert!(session.is_in_doubt(1) && !session.is_refused() && session.deadline() == Some(at(3005)));

    assert_eq!(session.on_answer(at(7), 0, 1, uid(1, sent.timestamp), &different), AnswerKind::Answered);
    assert_eq!(session.on_answer(at(7), 1, 1, other(at(4)), &Answer::Done), AnswerKind::Foreign);
    assert_eq!(session.on_answer(at(7), 1, 1, uid(1, sent.timestamp), &different), AnswerKind::Repeated);
    assert_eq!(session.on_changed(at(8), 1, other(at(4)), &taken()), None);
    let change = Change { command: Command::Delete, before: different };
    assert_eq!(session.on_changed(at(8), 1, uid(1, sent.timestamp), &Answer::Done), Some(change));
}

#[test]
fn requests_of_another_actor_are_other_requests() {
    let actor = Actor { account: AccountName::parse("alice").expect("a name"), key: PublicKey([1; 32]) };
    let mut session = session(1).successor_of_actor(ClientId([1; 16]), Some(actor.clone()));
    let sent = session.issue(at(5), Command::Delete);
    let required = Answer::Rejected { reason: Rejection::LoginRequired };
    assert_eq!(session.on_answer(at(6), 0, 1, uid(1, sent.timestamp), &required), AnswerKind::Foreign);
    let ours = Request { client: ClientId([1; 16]), sequence: 1, actor: Some(actor), command: Command::Delete };
    let uid = ours.uid(sent.timestamp);
    assert_eq!(session.on_answer(at(6), 0, 1, uid, &Answer::Done), AnswerKind::Answered);
}

#[test]
fn a_command_is_not_repeated_while_one_link_has_not_refused() {
    let mut session = session(2);
    let sent = session.issue(at(0), Command::Delete);
    assert_eq!(session.deadline(), Some(at(3000)));
    session.on_refused(at(1), 0, 1, sent.timestamp, Duration::ZERO);
    assert_eq!(session.deadline(), Some(at(600)), "only a time limit is left, and it is shorter now");
    assert!(session.due(at(599)).is_empty());
    session.on_refused(at(2), 1, 1, at(77), Duration::ZERO);
    assert!(session.due(at(599)).is_empty(), "a refusal of another attempt says nothing");
    assert_eq!(sequences(&session.due(at(600))), [1]);
    assert_eq!(session.deadline(), Some(at(3600)), "nobody has refused the new attempt");
}

#[test]
fn commands_that_all_links_refused_are_repeated_after_the_backoff() {
    let mut session = session(2);
    let sent: Vec<Outgoing> = (0..4).map(|_| session.issue(at(0), Command::Delete)).collect();
    for link in 0..2 {
        session.on_answer(at(1), link, 1, uid(1, sent[0].timestamp), &Answer::Done);
        session.on_refused(at(1), link, 3, sent[2].timestamp, Duration::ZERO);
    }
    assert_eq!(session.deadline(), Some(at(6)));
    assert!(session.due(at(5)).is_empty());
    let again = session.due(at(6));
    assert_eq!(sequences(&again), [3, 4], "the refused command, and the one that cannot take effect before it");
    assert!(again[0].timestamp >= at(6) && again[0].timestamp < again[1].timestamp);
    assert!(session.due(at(6)).is_empty());

    // The backoff grows until a command is answered.
    (0..2).for_each(|link| session.on_refused(at(60), link, 3, again[0].timestamp, Duration::ZERO));
    assert_eq!(session.deadline(), Some(at(70)));
    let again = session.due(at(70));
    session.on_answer(at(71), 0, 2, uid(2, sent[1].timestamp), &Answer::Done);
    (0..2).for_each(|link| session.on_refused(at(170), link, 3, again[0].timestamp, Duration::ZERO));
    assert_eq!(session.deadline(), Some(at(175)));
}

#[test]
fn out_of_sequence_from_one_replica_does_not_matter_while_another_answers() {
    let mut session = session(2);
    for round in 0..5 {
        let sent = session.issue(at(round), Command::Delete);
        let answer = out_of_sequence(1);
        assert_eq!(
            session.on_answer(at(round), 0, sent.sequence, uid(sent.sequence, sent.timestamp), &answer),
            AnswerKind::Uninformative
        );
        assert!(!session.is_idle());
        let kind = session.on_answer(at(round), 1, sent.sequence, uid(sent.sequence, sent.timestamp), &Answer::Done);
        assert_eq!(kind, AnswerKind::Answered);
        assert_eq!(
            session.on_answer(at(round), 0, sent.sequence, uid(sent.sequence, sent.timestamp), &answer),
            AnswerKind::Uninformative
        );
    }
    assert!(session.is_idle() && session.due(at(99_999)).is_empty());
}

#[test]
fn a_session_has_a_gap_at_a_replica_that_lacks_a_command_and_is_stranded_without_others() {
    let mut session = session(2);
    let first = session.issue(at(0), Command::Delete);
    session.on_answer(at(1), 0, 1, uid(1, first.timestamp), &Answer::Done);
    let second = session.issue(at(2), Command::Delete);
    session.on_answer(at(3), 1, 2, uid(2, second.timestamp), &out_of_sequence(1));
    assert!(session.has_gap() && !session.is_stranded(), "the other replica can answer");
    session.on_link_lost(at(4), 0);
    assert!(session.is_stranded());
    session.on_link_ready(0);
    assert!(!session.is_stranded());
    session.on_answer(at(5), 1, 1, uid(1, first.timestamp), &Answer::Done);
    assert!(!session.has_gap(), "it has caught up");
}

#[test]
fn out_of_sequence_from_all_repeats_the_command_unless_it_is_about_an_older_attempt() {
    let mut session = session(1);
    let sent: Vec<Outgoing> = (0..2).map(|_| session.issue(at(0), Command::Delete)).collect();
    session.on_refused(at(1), 0, 1, sent[0].timestamp, Duration::ZERO);
    let again = session.due(at(6));
    assert_eq!(sequences(&again), [1, 2]);
    // The first attempt of 2 was accepted, and is applied before the second attempt of 1.
    session.on_answer(at(1000), 0, 2, uid(2, sent[1].timestamp), &out_of_sequence(1));
    assert_eq!(session.deadline(), Some(at(3006)), "an answer to an older attempt repeats nothing");
    assert_eq!(session.on_answer(at(1006), 0, 1, uid(1, again[0].timestamp), &Answer::Done), AnswerKind::Answered);
    assert_eq!(session.on_answer(at(1006), 0, 2, uid(2, again[1].timestamp), &Answer::Done), AnswerKind::Answered);

    let third = session.issue(at(1100), Command::Delete);
    session.on_answer(at(1200), 0, 3, uid(3, third.timestamp), &out_of_sequence(1));
    assert_eq!(sequences(&session.due(at(1205))), [3]);
}

#[test]
fn an_unanswered_command_and_those_behind_it_are_repeated_but_not_while_answers_come() {
    let mut session = session(1);
    let sent: Vec<Outgoing> = (0..3).map(|_| session.issue(at(0), Command::Delete)).collect();
    session.on_answer(at(2900), 0, 1, uid(1, sent[0].timestamp), &Answer::Done);
    assert!(session.due(at(3000)).is_empty());
    assert_eq!(session.deadline(), Some(at(5900)));
    assert_eq!(sequences(&session.due(at(5900))), [2, 3]);
    assert_eq!(session.deadline(), Some(at(8900)));
    // An answer to the first attempt is as good as any.
    assert_eq!(session.on_answer(at(6000), 0, 2, uid(2, sent[1].timestamp), &Answer::Done), AnswerKind::Answered);
}

#[test]
fn a_link_that_returns_is_sent_everything_in_flight_and_its_refusals_are_forgotten() {
    let mut session = session(2);
    let sent: Vec<Outgoing> = (0..2).map(|_| session.issue(at(0), Command::Delete)).collect();
    session.on_refused(at(1), 0, 1, sent[0].timestamp, Duration::ZERO);
    session.on_link_lost(at(2), 1);
    assert_eq!(session.deadline(), Some(at(7)), "every link in reach has refused");
    assert_eq!(session.on_link_ready(1), sent);
    assert!(session.due(at(7)).is_empty(), "the link that returned may accept it");
    session.on_link_lost(at(60), 0);
    assert_eq!(session.on_link_ready(0), sent);
    session.on_link_lost(at(61), 0);
    session.on_link_lost(at(61), 1);
    assert_eq!(session.deadline(), None, "without a link there is nothing to do");
    assert!(session.due(at(99_999)).is_empty());
}

#[test]
fn a_command_is_in_doubt_once_it_was_sent_on_a_link() {
    let mut session = session(0);
    session.issue(at(0), Command::Delete);
    assert!(!session.is_idle() && !session.is_in_doubt(1));
    assert_eq!(session.on_link_ready(0).len(), 1);
    session.on_link_lost(at(1), 0);
    assert!(session.is_in_doubt(1) && !session.is_in_doubt(2));
}

#[test]
fn the_window_is_counted_from_the_oldest_command_in_flight() {
    let mut session = session(1);
    let sent: Vec<Outgoing> = (0..WINDOW).map(|_| session.issue(at(0), Command::Delete)).collect();
    assert!(!session.can_issue());
    session.on_answer(at(1), 0, 2, uid(2, sent[1].timestamp), &Answer::Done);
    assert!(!session.can_issue(), "the oldest is still without an answer");
    session.on_answer(at(1), 0, 1, uid(1, sent[0].timestamp), &Answer::Done);
    assert!(session.can_issue());
}

#[test]
fn a_changed_answer_is_reported_once() {
    let mut session = session(2);
    let sent = session.issue(at(0), Command::Delete);
    assert_eq!(session.on_changed(at(50), 1, uid(1, sent.timestamp), &taken()), None, "it was not answered");
    session.on_answer(at(9), 0, 1, uid(1, sent.timestamp), &Answer::Done);
    assert_eq!(session.on_changed(at(50), 1, uid(1, sent.timestamp), &Answer::Done), None);
    let change = Change { command: Command::Delete, before: Answer::Done };
    assert_eq!(session.on_changed(at(50), 1, uid(1, sent.timestamp), &taken()), Some(change));
    assert_eq!(session.on_changed(at(50), 1, uid(1, sent.timestamp), &taken()), None, "the next replica says the same");
    assert_eq!(session.on_answer(at(9), 1, 1, uid(1, sent.timestamp), &taken()), AnswerKind::Repeated);
    let forgotten = Answer::Rejected { reason: Rejection::AnswerForgotten };
    assert_eq!(session.on_changed(at(50), 1, uid(1, sent.timestamp), &forgotten), None);
    assert_eq!(session.on_changed(at(50), 2, uid(2, at(99)), &taken()), None);
    assert!(session.stamp(at(0)) > at(99), "later timestamps are above those seen");
}

#[test]
fn a_successor_has_the_same_links_and_later_timestamps() {
    let mut session = session(1);
    session.observe(at(5), at(60));
    let mut next = session.successor(ClientId([2; 16]));
    let outgoing = next.issue(at(5), Command::Delete);
    assert_eq!((outgoing.sequence, outgoing.timestamp), (1, at(60).next()));
    assert!(next.is_in_doubt(1), "its link was sent the command");
}

#[test]
fn refused_commands_wait_as_long_as_the_first_replica_says() {
    let mut session = session(2);
    let sent = session.issue(at(0), Command::Delete);
    let second = Duration::from_secs(1);
    session.on_refused(at(1), 0, 1, sent.timestamp, 30 * second);
    session.on_refused(at(1), 1, 1, sent.timestamp, 10 * second);
    let first = at(1).after(10 * second);
    assert_eq!(session.deadline(), Some(first), "not before, although it is unanswered for long");
    assert_eq!(session.due(Timestamp(first.0 - 1)), []);
    let again = session.due(first);
    assert_eq!(again.len(), 1);

    // A replica that is sick cannot silence us for long.
    (0..2).for_each(|link| session.on_refused(first, link, 1, again[0].timestamp, 1_000_000 * second));
    assert_eq!(session.deadline(), Some(first.after(THROTTLED_MAX)));
}
