//! A job: the work for one input line, its progress and its answers.

use crate::cli::exit::Failure;
use crate::cli::secrets::NewKey;
use crate::cli::verb::Verb;
use stablechat_protocol::answer::{Answer, AnswerMetadata, QueryAnswer, Rejection};
use stablechat_protocol::command::Query;
use stablechat_protocol::conversation::Message;
use stablechat_protocol::time::Timestamp;
use stablechat_protocol::uid::Uid;
use std::collections::VecDeque;

/// The work that one line asks for.
pub struct Job {
    /// The line of standard input that asked for it, from 1.
    pub line: Option<u64>,
    /// The parsed verb, or the error to report when the job's turn comes.
    pub task: Result<Verb, Failure>,
    pub stage: Stage,
    /// The answers of this stage in order of arrival, one of each link.
    pub replies: Vec<Reply>,
    /// When the first final answer of this stage came.
    pub answered_at: Timestamp,
    /// The key that it gives an account, if it does.
    pub new_key: Option<NewKey>,
    /// Whether any result or rejection was shown; if not, the user is told that there is none.
    pub has_results: bool,
    /// Messages of earlier pages, for results that are shown only when complete.
    pub gathered: Vec<(usize, Vec<Message>)>,
    /// The query that is under way, if its answer is a page.
    pub page: Option<Query>,
    /// Queries that are to be asked after it.
    pub queries: VecDeque<Query>,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It waits for its turn.
    Waiting,
    /// Its command is under way.
    Command {
        /// The command's place in its session.
        sequence: u64,
    },
    /// Its query is under way.
    Query { number: u64 },
    /// All replicas are being asked for their status.
    Status,
    /// A password is being asked for.
    Password,
    /// There is nothing to wait for.
    Local,
}

/// A replica's answer to a job.
#[derive(Clone, Debug)]
pub struct Reply {
    pub link: usize,
    pub content: Content,
    pub metadata: AnswerMetadata,
}

/// The content of an answer.
#[derive(Clone, Debug)]
pub enum Content {
    /// The answer to a command.
    Command {
        /// The uid of the request that was answered.
        uid: Uid,
        answer: Answer,
    },
    /// The answer to a query.
    Query(QueryAnswer),
}

impl Job {
    /// A job that waits.
    pub fn new(line: Option<u64>, task: Result<Verb, Failure>) -> Job {
        Job {
            line,
            task,
            stage: Stage::Waiting,
            replies: Vec::new(),
            answered_at: Timestamp::ZERO,
            new_key: None,
            has_results: false,
            gathered: Vec::new(),
            page: None,
            queries: VecDeque::new(),
        }
    }

    /// Whether it changes the account in use.
    pub fn is_barrier(&self) -> bool {
        self.task.as_ref().is_ok_and(Verb::is_barrier)
    }

    /// The verb's name.
    pub fn word(&self) -> Option<&'static str> {
        self.task.as_ref().ok().map(Verb::word)
    }

    /// Enters a stage, in which nothing is answered yet.
    pub fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.replies.clear();
    }

    /// Takes an answer. A replica may first answer `OutOfSequence` and later, when it has the earlier requests, finally.
    pub fn on_reply(&mut self, now: Timestamp, reply: Reply) {
        if !self.is_answered() && reply.content.is_final() {
            self.answered_at = now;
        }
        match self.replies.iter_mut().find(|earlier| earlier.link == reply.link) {
            Some(earlier) if !earlier.content.is_final() => *earlier = reply,
            Some(_) => {}
            None => self.replies.push(reply),
        }
    }

    /// Whether it has an answer that says whether the request took effect.
    pub fn is_answered(&self) -> bool {
        self.stage == Stage::Local || self.replies.iter().any(|reply| reply.content.is_final())
    }
}

impl Content {
    /// Whether it says if the request took effect. `OutOfSequence` does not: the replica has missed earlier requests of the
    /// session, and may still get them.
    pub fn is_final(&self) -> bool {
        !matches!(self, Content::Command { answer: Answer::Rejected { reason: Rejection::OutOfSequence { .. } }, .. })
    }

    /// Why the request had no effect or result, if it had none.
    pub fn rejection(&self) -> Option<&Rejection> {
        match self {
            Content::Command { answer: Answer::Rejected { reason }, .. }
            | Content::Query(QueryAnswer::Rejected { reason }) => Some(reason),
            _ => None,
        }
    }
}
