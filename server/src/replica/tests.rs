//! The protocol by golden scripts, one scenario a file, in `replica/scripts`.
//!
//! Times are in milliseconds, with up to six decimals. Δ is 1,000 ms, and timestamps may be 50 ms ahead. A request is known
//! by its name; requests of one name and time are the same request. What the replica wants done is printed, and after each
//! block how it stands.

use super::*;
use goldenscript::{ArgumentConsumer, Context, Runner};
use stablechat_protocol::command::{Command, Query, Recipient};
use stablechat_protocol::id::ClientId;
use stablechat_protocol::name::{AccountName, Pattern};
use stablechat_protocol::text::MessageText;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const MILLISECOND: u64 = 1_000_000;
const DELIVERY_BOUND: Duration = Duration::from_millis(1000);
const AHEAD: Duration = Duration::from_millis(50);

/// A replica, and what a script calls things.
struct Script {
    replica: Replica,
    /// The names of requests and questions.
    names: BTreeMap<RequestId, String>,
}

impl Script {
    /// A replica that has applied nothing and starts at 10,000 ms.
    fn new() -> Script {
        Script { replica: start(10_000, Uid::MIN), names: BTreeMap::new() }
    }

    fn name(&self, id: RequestId) -> &str {
        &self.names[&id]
    }

    fn describe(&self, output: &Output) -> String {
        match output {
            Output::Apply { uid, body, stability, copies, waiting } => {
                assert_eq!((*stability, *copies, *uid), (Stability::RealTime, 1, body.uid(uid.timestamp)));
                let waiting = waiting.iter().fold(String::new(), |line, connection| format!("{line} {}", connection.0));
                format!("apply {} of {}, answer to{waiting}", self.name(body.id()), show(uid.timestamp))
            }
            Output::Refuse { to, request, timestamp, reason } => {
                format!("refuse {} of {} to {}: {reason}", self.name(*request), show(*timestamp), to.0)
            }
            Output::Stopped => "stopped".into(),
        }
    }

    /// Lets a request or question arrive.
    fn arrive(&mut self, is_question: bool, arguments: &mut ArgumentConsumer<'_>) -> Result<Input> {
        let name = arguments.next_pos().ok_or("whose name is missing")?;
        let timestamp = time(arguments.take_key("of").ok_or("of when is missing")?)?;
        let read = arguments.take_key("at").map_or(Ok(timestamp), time)?;
        let from = ConnectionId(arguments.take_key("from").map_or(Ok(1), str::parse)?);
        let body = if is_question { question(name) } else { request(name) };
        self.names.insert(body.id(), name.to_string());
        Ok(Input::Request { time: read, from, timestamp, body })
    }
}

impl Runner for Script {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &goldenscript::Command, _: &Context) -> Result<String> {
        let mut arguments = command.consume_args();
        let input = match command.name.as_str() {
            "request" => self.arrive(false, &mut arguments)?,
            "question" => self.arrive(true, &mut arguments)?,
            "drained" => Input::Drained { time: time(arguments.next_pos().ok_or("the time is missing")?)? },
            "stop" => Input::Stop,
            "restart" => {
                let now = arguments.next_pos().ok_or("the time is missing")?.parse()?;
                let applied = Uid::new(arguments.take_key("applied").map_or(Ok(Timestamp::ZERO), time)?, b"");
                self.replica = start(now, applied);
                return Ok(String::new());
            }
            name => return Err(format!("there is no command {name}").into()),
        };
        arguments.reject_next()?;
        let mut outputs = Vec::new();
        self.replica.step(input, &mut outputs);
        let lines = outputs.iter().map(|output| self.describe(output));
        Ok(lines.fold(String::new(), |text, line| text + &line + "\n"))
    }

    fn end_block(&mut self, _: &goldenscript::Block) -> Result<String> {
        let mut text = String::new();
        let (pending, closed) = (self.replica.pending(), show(self.replica.closed));
        write!(text, "{pending} pending, closed {closed}")?;
        match self.replica.deadline() {
            Some(deadline) => writeln!(text, ", next reading at {}", show(deadline))?,
            None => writeln!(text)?,
        }
        Ok(text)
    }
}

/// A replica that starts at this time, in milliseconds.
fn start(now_ms: u64, applied: Uid) -> Replica {
    Replica::new(DELIVERY_BOUND, AHEAD, applied, Timestamp(now_ms * MILLISECOND))
}

/// The session of this name, or as many bytes of it as there are.
fn client(name: &str) -> ClientId {
    ClientId::derive(&AccountName::parse("alice").expect("a name"), name)
}

/// The request of this name: the first of its session.
fn request(name: &str) -> Body {
    let to = Recipient::Account { name: AccountName::parse("bob").expect("a name") };
    let command = Command::Send { to, text: MessageText::parse(name).expect("a text") };
    Body::Request(Request { client: client(name), sequence: 1, actor: None, command })
}

/// The question of this name.
fn question(name: &str) -> Body {
    let id = u64::from_be_bytes(client(name).0[..8].try_into().expect("eight of sixteen bytes"));
    Body::Question(Question { id, actor: None, query: Query::List { pattern: Pattern::all(), after: None, limit: 1 } })
}

/// A time in milliseconds with up to six decimals.
fn time(text: &str) -> Result<Timestamp> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    Ok(Timestamp(whole.parse::<u64>()? * MILLISECOND + format!("{decimals:0<6}").parse::<u64>()?))
}

/// The inverse of [`time`].
fn show(time: Timestamp) -> String {
    let (whole, decimals) = (time.0 / MILLISECOND, time.0 % MILLISECOND);
    if decimals == 0 { whole.to_string() } else { format!("{whole}.{decimals:06}") }
}

#[test]
fn golden_scripts() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/replica/scripts");
    let mut scripts = 0;
    for file in std::fs::read_dir(directory).expect("the scripts are there") {
        let path = file.expect("the scripts can be listed").path();
        goldenscript::run(&mut Script::new(), &path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        scripts += 1;
    }
    assert!(scripts > 0);
}

#[test]
fn overload_is_refused_until_there_is_room() {
    let mut replica = start(10_000, Uid::MIN);
    let mut outputs = Vec::new();
    let mut arrive = |replica: &mut Replica, number: u64| {
        let to = Recipient::Account { name: AccountName::parse("bob").expect("a name") };
        let command = Command::Send { to, text: MessageText::parse("x".repeat(4096)).expect("a text") };
        let body = Body::Request(Request { client: client("r"), sequence: number, actor: None, command });
        let timestamp = Timestamp(10_000 * MILLISECOND + number);
        replica.step(Input::Request { time: timestamp, from: ConnectionId(1), timestamp, body }, &mut outputs);
        std::mem::take(&mut outputs)
    };
    let is_overload = |outputs: &[Output]| matches!(outputs, [Output::Refuse { reason: Refusal::Overloaded, .. }]);
    let refused = (1..100_000).find(|number| is_overload(&arrive(&mut replica, *number)));
    let refused = refused.expect("128 MiB are less than 100,000 times 4 KiB");
    assert!((25_000..32_768).contains(&refused), "{refused}");
    assert!(is_overload(&arrive(&mut replica, refused)));

    let mut applied = Vec::new();
    replica.step(Input::Drained { time: Timestamp(11_000 * MILLISECOND + 2) }, &mut applied);
    assert_eq!(applied.len(), 1);
    assert_eq!(arrive(&mut replica, refused), [], "one place is free");
    assert!(is_overload(&arrive(&mut replica, refused + 1)));
}
