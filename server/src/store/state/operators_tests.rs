use crate::store::testing::{actor, apply, assert_sound, create, held, memory};
use crate::store::{ChatStore, schema::StoreIdentity};
use stablechat_protocol::answer::{Answer, QueryAnswer, Rejection};
use stablechat_protocol::command::{Command, Query};
use stablechat_protocol::conversation::Conversation;
use stablechat_protocol::digest::Digest;
use stablechat_protocol::login::PublicKey;
use stablechat_protocol::operator::{
    INVITATIONS_MAX, InitialSettings, InvitationCode, OPERATOR, OpenInvitation, Operation, Quota, Registration,
    Settings,
};
use stablechat_protocol::request::{Actor, QueryRequest};
use stablechat_protocol::text::MessageText;

/// The code of the invitation that is open in the beginning.
fn first() -> InvitationCode {
    InvitationCode::from_random([1; 16])
}

/// A store, and the requests of one session for each actor.
struct Service {
    store: ChatStore,
    milliseconds: u64,
}

impl Service {
    /// Of a cluster whose accounts are created by invitation.
    fn new() -> Service {
        let identity = StoreIdentity { cluster: "test".into(), replica: "one".into() };
        let registration = Registration::ByInvitation;
        let initial = InitialSettings { registration, invitation: Some(first().digest()) };
        let store = ChatStore::open(&memory(), &identity, &initial).expect("a new store opens");
        Service { store, milliseconds: 0 }
    }

    /// Executes a command in a session of its own, and makes sure that the rows agree.
    fn execute(&mut self, actor: &Actor, command: Command) -> Result<(), Rejection> {
        self.milliseconds += 1;
        let held = held(self.milliseconds, 0, 1, actor, command);
        let mut request = held.request;
        request.client.0[..8].copy_from_slice(&self.milliseconds.to_be_bytes());
        let held = stablechat_protocol::request::StampedRequest { uid: request.uid(held.uid.timestamp), request };
        let outcome = apply(&mut self.store, &held);
        self.store.commit().expect("memory does not fail");
        assert_sound(&self.store);
        match outcome.answer {
            Answer::Done => Ok(()),
            Answer::Rejected { reason } => Err(reason),
        }
    }

    fn operate(&mut self, operation: Operation) -> Result<(), Rejection> {
        self.execute(&actor(OPERATOR, 9), Command::Operate { operation })
    }

    fn create(&mut self, name: &str, invitation: Option<InvitationCode>) -> Result<(), Rejection> {
        let actor = actor(name, 1);
        let command = Command::Create { name: actor.account.clone(), key: actor.key, invitation };
        self.execute(&actor, command)
    }

    fn settings(&self, asker: Option<Actor>) -> Result<(Settings, Vec<OpenInvitation>), Rejection> {
        let query = QueryRequest { id: 1, actor: asker, query: Query::Settings };
        match self.store.query(&query).expect("memory does not fail") {
            QueryAnswer::Settings { settings, invitations } => Ok((settings, invitations)),
            QueryAnswer::Rejected { reason } => Err(reason),
            other => panic!("{other:?} is no answer to that"),
        }
    }
}

#[test]
fn an_invitation_can_be_used_once() {
    let mut service = Service::new();
    assert_eq!(service.create("ann", None), Err(Rejection::InvitationNeeded));
    let wrong = InvitationCode::from_random([2; 16]);
    assert_eq!(service.create("ann", Some(wrong)), Err(Rejection::NoSuchInvitation));
    assert_eq!(service.create("ann", Some(first())), Ok(()));
    let taken = Err(Rejection::AlreadyExists { name: actor("ann", 1).account });
    assert_eq!(
        service.create("ann", Some(first())),
        Err(Rejection::NoSuchInvitation),
        "which names are taken is not said"
    );
    assert_eq!(service.create("bob", Some(first())), Err(Rejection::NoSuchInvitation));

    let second = InvitationCode::from_random([3; 16]);
    let invite = Operation::Invite { invitation: second.digest() };
    assert_eq!(service.operate(invite.clone()), Ok(()));
    assert_eq!(service.operate(invite), Ok(()), "it can be repeated");
    let another =
        Command::Create { name: actor("ann", 1).account, key: PublicKey([2; 32]), invitation: Some(second.clone()) };
    assert_eq!(service.execute(&actor("bob", 1), another), taken, "nothing is used up by what has no effect");
    assert_eq!(service.create("bob", Some(second.clone())), Ok(()));
    assert_eq!(service.create("cid", Some(second)), Err(Rejection::NoSuchInvitation));
}

/// Two sides of a partition have given away the same invitation. When they meet, each puts the other's request in its place.
#[test]
fn of_two_accounts_with_one_invitation_the_earlier_stays() {
    let create = |milliseconds: u64, name: &str| {
        let actor = actor(name, 1);
        let command = Command::Create { name: actor.account.clone(), key: actor.key, invitation: Some(first()) };
        held(milliseconds, name.as_bytes()[0], 1, &actor, command)
    };
    let (ann, bob) = (create(10, "ann"), create(20, "bob"));
    for (ours, theirs) in [(&ann, &bob), (&bob, &ann)] {
        let mut service = Service::new();
        assert_eq!(apply(&mut service.store, ours).answer, Answer::Done);
        service.store.commit().expect("memory does not fail");
        let repair = service.store.insert(vec![theirs.clone()]).expect("memory does not fail");
        let used = Answer::Rejected { reason: Rejection::NoSuchInvitation };
        match ours == &ann {
            true => assert_eq!(repair.inserted[0].1.answer, used),
            false => assert_eq!((repair.changed[0].uid, &repair.changed[0].answer), (bob.uid, &used)),
        }
        assert_sound(&service.store);
        assert_eq!(service.settings(Some(actor(OPERATOR, 9))).expect("an operator may see them").0.accounts, 1);
        assert!(service.store.owns(&actor("ann", 1)).expect("memory does not fail"));
    }
}

#[test]
fn an_invitation_can_be_revoked_and_there_are_not_too_many() {
    let mut service = Service::new();
    let operator = Some(actor(OPERATOR, 9));
    let opened = service.settings(operator.clone()).expect("an operator may see them").1;
    assert_eq!(
        opened.iter().map(|open| (open.invitation, open.opened)).collect::<Vec<_>>(),
        [(first().digest(), None)]
    );
    for revoked in [first(), InvitationCode::from_random([3; 16])] {
        let invitation = revoked.digest();
        assert_eq!(service.operate(Operation::Invite { invitation }), Ok(()));
        assert_eq!(service.operate(Operation::Revoke { invitation }), Ok(()));
        assert_eq!(service.operate(Operation::Revoke { invitation }), Err(Rejection::NoSuchInvitation));
        assert_eq!(service.create("ann", Some(revoked)), Err(Rejection::NoSuchInvitation));
    }
    assert_eq!(service.settings(operator.clone()).expect("an operator may see them").1, []);

    let invitation = |number: usize| Digest([number.to_be_bytes(); 4].concat().try_into().expect("32 bytes"));
    for number in 0..INVITATIONS_MAX {
        assert_eq!(service.operate(Operation::Invite { invitation: invitation(number) }), Ok(()));
    }
    let one_more = Operation::Invite { invitation: invitation(INVITATIONS_MAX) };
    assert_eq!(service.operate(one_more), Err(Rejection::TooMany));
    assert_eq!(service.settings(operator).expect("an operator may see them").1.len(), INVITATIONS_MAX);
}

#[test]
fn registration_and_quotas_are_what_the_operators_say() {
    let mut service = Service::new();
    let set = |registration| Operation::SetRegistration { registration };
    assert_eq!(service.operate(set(Registration::Open)), Ok(()));
    assert_eq!(service.create("ann", None), Ok(()));
    assert_eq!(service.create("bob", Some(first())), Ok(()), "which leaves the invitation alone");
    assert_eq!(service.operate(set(Registration::Closed)), Ok(()));
    assert_eq!(service.create("cid", Some(first())), Err(Rejection::RegistrationClosed));

    assert_eq!(service.operate(set(Registration::Open)), Ok(()));
    assert_eq!(service.operate(Operation::SetQuota { quota: Quota::Accounts, limit: 2 }), Ok(()));
    assert_eq!(service.create("cid", None), Err(Rejection::TooManyAccounts));
    assert_eq!(service.execute(&actor("bob", 1), Command::Delete), Ok(()));
    assert_eq!(service.create("cid", None), Ok(()));

    assert_eq!(service.operate(Operation::SetQuota { quota: Quota::Unread, limit: 2 }), Ok(()));
    let too_many = Operation::SetQuota { quota: Quota::Unread, limit: 200_001 };
    assert_eq!(service.operate(too_many), Err(Rejection::TooMany));
    let to = Conversation::with(&actor("cid", 1).account);
    let mut send = || {
        let text = MessageText::parse("hello").expect("a text");
        service.execute(&actor("ann", 1), Command::Send { to: to.clone(), text })
    };
    assert_eq!((send(), send()), (Ok(()), Ok(())));
    assert_eq!(send(), Err(Rejection::TooManyUnread { name: actor("cid", 1).account }));

    let (settings, _) = service.settings(Some(actor(OPERATOR, 9))).expect("an operator may see them");
    let Settings { registration, accounts, accounts_max, unread_max, .. } = settings;
    assert_eq!((registration, accounts, accounts_max, unread_max), (Registration::Open, 2, 2, 2));
}

#[test]
fn an_operator_removes_accounts_and_replaces_keys() {
    let mut service = Service::new();
    assert_eq!(service.create("ann", Some(first())), Ok(()));
    let (ann, key) = (actor("ann", 1), PublicKey([2; 32]));
    let replace = Operation::ReplaceKey { name: ann.account.clone(), key };
    let outcome =
        apply(&mut service.store, &held(1000, 7, 1, &actor(OPERATOR, 9), Command::Operate { operation: replace }));
    assert_eq!((outcome.answer, outcome.ended), (Answer::Done, Some(ann.clone())));
    service.milliseconds = 1000;
    assert_eq!(service.execute(&ann, Command::Delete), Err(Rejection::NotOwner { name: ann.account.clone() }));

    let remove = Operation::RemoveAccount { name: ann.account.clone() };
    assert_eq!(service.operate(remove.clone()), Ok(()));
    assert_eq!(service.operate(remove), Err(Rejection::NoSuchUser { name: ann.account.clone() }));
    assert_eq!(service.execute(&actor("ann", 2), Command::Delete), Err(Rejection::NotOwner { name: ann.account }));
}

/// A key may be derived from a password, so nothing may tell whether a guess at it is right.
#[test]
fn nobody_finds_out_which_key_an_account_has() {
    let mut service = Service::new();
    assert_eq!(service.create("ann", Some(first())), Ok(()));
    let not_owner = Err(Rejection::NotOwner { name: actor("ann", 1).account });
    for guess in [1, 2] {
        let key = PublicKey([guess; 32]);
        assert_eq!(service.execute(&actor("ann", 7), Command::SetKey { key }), not_owner);
        let create = Command::Create { name: actor("ann", 1).account, key, invitation: None };
        assert_eq!(service.execute(&actor("ann", 7), create), Err(Rejection::InvitationNeeded));
    }
    let key = PublicKey([2; 32]);
    assert_eq!(service.execute(&actor("ann", 1), Command::SetKey { key }), Ok(()));
    assert_eq!(service.execute(&actor("ann", 1), Command::SetKey { key }), Ok(()), "it can be repeated");
    assert_eq!(service.execute(&actor("ann", 7), Command::SetKey { key }), not_owner);
}

#[test]
fn only_operators_operate_and_nobody_has_their_name() {
    let mut service = Service::new();
    assert_eq!(service.create("ann", Some(first())), Ok(()));
    let operation = Operation::SetRegistration { registration: Registration::Open };
    let command = Command::Operate { operation };
    assert_eq!(service.execute(&actor("ann", 1), command), Err(Rejection::NotAnOperator));
    assert_eq!(service.settings(Some(actor("ann", 1))), Err(Rejection::NotAnOperator));
    assert_eq!(service.settings(None), Err(Rejection::LoginRequired));
    assert_eq!(service.operate(Operation::SetRegistration { registration: Registration::Open }), Ok(()));
    let taken = Err(Rejection::AlreadyExists { name: actor(OPERATOR, 1).account });
    assert_eq!(service.execute(&actor("ann", 1), create(&actor(OPERATOR, 1))), taken);
}

#[test]
fn strangers_are_not_told_who_is_here() {
    let mut service = Service::new();
    assert_eq!(service.create("ann", Some(first())), Ok(()));
    let list = |asker: Option<Actor>| {
        let pattern = stablechat_protocol::name::Pattern::all();
        let query = QueryRequest { id: 1, actor: asker, query: Query::List { pattern, after: None, limit: 10 } };
        service.store.query(&query).expect("memory does not fail")
    };
    let names = QueryAnswer::Accounts { names: vec![actor("ann", 1).account], next: None };
    assert_eq!(list(Some(actor("ann", 1))), names);
    assert_eq!(list(Some(actor(OPERATOR, 9))), names);
    for stranger in [None, Some(actor("bob", 1)), Some(actor("ann", 2))] {
        assert!(matches!(list(stranger), QueryAnswer::Rejected { .. }));
    }
}
