//! The queue of jobs whose results are not shown yet, in the order of their lines.
//!
//! Jobs are started from the front, many at a time, and leave at the front when they are complete. A job that changes the account
//! is a *barrier*: it starts when all jobs before it are done, and the jobs after it wait until it is done.

use super::job::{Job, Stage};
use crate::cli::verb::Verb;
use stablechat_protocol::session::WINDOW;
use std::collections::{BTreeMap, VecDeque};

/// How many jobs are queued before no more lines are read: two windows, so that one is ready when the other is answered. A chunk
/// of lines that was read already may come on top.
const JOBS_MAX: usize = 2 * WINDOW as usize;

#[derive(Default)]
pub(super) struct JobQueue {
    jobs: VecDeque<Job>,
    /// How many of `jobs`, at its front, are started.
    started: usize,
    /// How many jobs have left the front. A job's number is this plus its place in `jobs`, and never changes.
    finished: u64,
    /// The numbers of the jobs whose commands are in flight, by sequence number in the account's session. There may be a
    /// thousand, so an answer must not have to look through the queue.
    by_sequence: BTreeMap<u64, u64>,
}

impl JobQueue {
    pub fn push(&mut self, job: Job) {
        self.jobs.push_back(job);
    }

    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    pub fn has_room(&self) -> bool {
        self.jobs.len() < JOBS_MAX
    }

    pub fn front(&self) -> Option<&Job> {
        self.jobs.front()
    }

    /// Names all jobs for a person, by their lines or by what they do: those for which `of_these` holds, and the others.
    pub fn name_those(&self, of_these: impl Fn(&Job) -> bool) -> [Option<String>; 2] {
        let (these, others): (Vec<&Job>, Vec<&Job>) = self.jobs.iter().partition(|job| of_these(job));
        [named(&these), named(&others)]
    }

    /// Whether any job changes the account.
    pub fn changes_prompt(&self) -> bool {
        self.jobs.iter().any(|job| job.is_barrier() || matches!(job.task, Ok(Verb::To { .. })))
    }

    /// Whether any command is in flight.
    pub fn has_commands(&self) -> bool {
        !self.by_sequence.is_empty()
    }

    /// Whether the job at the front gives an account another key, or deletes it.
    pub fn changes_key(&self) -> bool {
        self.first_started().is_some_and(|job| matches!(job.task, Ok(Verb::Delete { .. } | Verb::SetKey { .. })))
    }

    /// The job at the front, if it waits for a password.
    pub fn awaiting_password(&mut self) -> Option<&mut Job> {
        self.jobs.front_mut().filter(|job| job.stage == Stage::Password)
    }

    /// The next job to start, unless a barrier holds it up. `is_quiet`: no command is in flight and nothing is to be read.
    pub fn next(&mut self, is_quiet: bool) -> Option<&mut Job> {
        let is_held_up = self.started > 0 && self.jobs.front().is_some_and(Job::is_barrier);
        let job = self.jobs.get_mut(self.started).filter(|_| !is_held_up)?;
        let is_ready = !job.is_barrier() || (self.started == 0 && is_quiet);
        is_ready.then_some(job)
    }

    /// Starts the job that [`JobQueue::next`] returned.
    pub fn start_next(&mut self, stage: Stage) {
        if let Stage::Command { sequence } = stage {
            self.by_sequence.insert(sequence, self.finished + self.started as u64);
        }
        self.jobs[self.started].enter(stage);
        self.started += 1;
    }

    /// Drops the jobs that are not started, and returns them.
    pub fn drop_waiting(&mut self) -> impl Iterator<Item = Job> {
        self.jobs.drain(self.started..)
    }

    /// The first job, if it is started.
    pub fn first_started(&self) -> Option<&Job> {
        self.jobs.front().filter(|_| self.started > 0)
    }

    /// Takes the first job off the queue. It must be started.
    pub fn pop(&mut self) -> Option<Job> {
        let job = self.jobs.pop_front()?;
        if let Stage::Command { sequence } = job.stage {
            self.by_sequence.remove(&sequence);
        }
        self.started -= 1;
        self.finished += 1;
        Some(job)
    }

    /// Returns a job to the front, from which it was just taken, because it has asked for its next page.
    pub fn put_back(&mut self, job: Job) {
        self.jobs.push_front(job);
        self.started += 1;
        self.finished -= 1;
    }

    /// The job whose command has this sequence number.
    pub fn of_command(&mut self, sequence: u64) -> Option<&mut Job> {
        let number = self.by_sequence.get(&sequence)?;
        self.jobs.get_mut(usize::try_from(number - self.finished).ok()?)
    }

    /// The job whose query has this number.
    pub fn of_query(&mut self, number: u64) -> Option<&mut Job> {
        self.jobs.iter_mut().take(self.started).find(|job| job.stage == Stage::Query { number })
    }

    /// The jobs whose queries have no answer yet.
    pub fn unanswered_queries(&mut self) -> impl Iterator<Item = &mut Job> {
        let started = self.jobs.iter_mut().take(self.started);
        started.filter(|job| matches!(job.stage, Stage::Query { .. }) && !job.is_answered())
    }

    /// Forgets all sequence numbers, because their session ends. Calls `each` with the jobs that have no answer yet.
    pub fn end_session(&mut self, mut each: impl FnMut(&mut Job)) {
        for number in std::mem::take(&mut self.by_sequence).into_values() {
            let place = usize::try_from(number - self.finished).expect("jobs in flight are in the queue");
            let job = &mut self.jobs[place];
            if !job.is_answered() {
                each(job);
            }
        }
    }
}

/// Jobs as a person would call them: by their lines, or by what they do. `None` when there are none.
fn named(jobs: &[&Job]) -> Option<String> {
    let (first, last) = (jobs.first()?, jobs.last()?);
    Some(match (first.line, last.line) {
        (Some(first), Some(last)) if first < last => format!("lines {first} to {last}"),
        (Some(line), _) => format!("line {line}"),
        _ => format!("the {}", first.word().unwrap_or("request")),
    })
}

#[cfg(test)]
mod tests {
    use super::super::job::{Content, Reply};
    use super::*;
    use stablechat_protocol::answer::{Answer, AnswerMetadata, Stability};
    use stablechat_protocol::digest::Digest;
    use stablechat_protocol::time::Timestamp;
    use stablechat_protocol::uid::Uid;

    fn queue(lines: &[&str]) -> JobQueue {
        let mut queue = JobQueue::default();
        for line in lines {
            let verb = Verb::parse(line).expect(line).expect(line);
            queue.push(Job::new(None, Ok(verb)));
        }
        queue
    }

    fn answer(job: &mut Job) {
        let content = Content::Command { uid: Uid { timestamp: Timestamp(1), digest: [0; 16] }, answer: Answer::Done };
        let metadata =
            AnswerMetadata { position: 1, log_digest: Digest([0; 32]), stability: Stability::Closed, copies: 1 };
        job.on_reply(Timestamp(1), Reply { link: 0, content, metadata });
    }

    #[test]
    fn answers_find_their_jobs_while_others_leave_the_queue() {
        let mut queue = queue(&["send a 1", "send a 2", "send a 3"]);
        (1..=3).for_each(|sequence| {
            assert!(queue.next(false).is_some());
            queue.start_next(Stage::Command { sequence });
        });
        assert!(queue.next(true).is_none(), "all are started");
        answer(queue.of_command(1).expect("in flight"));
        assert!(queue.pop().is_some_and(|job| job.is_answered()));
        assert!(queue.of_command(1).is_none());
        answer(queue.of_command(3).expect("in flight"));
        assert!(!queue.first_started().expect("two are").is_answered(), "results come in the order of the lines");

        let mut unanswered = 0;
        queue.end_session(|_| unanswered += 1);
        assert!(unanswered == 1 && queue.of_command(2).is_none());
    }

    #[test]
    fn a_job_that_changes_the_account_is_alone() {
        let mut queue = queue(&["send a 1", "connect a", "send a 2"]);
        queue.start_next(Stage::Command { sequence: 1 });
        assert!(queue.next(true).is_none() && queue.changes_prompt(), "the command before it is in flight");
        assert!(queue.pop().is_some());
        assert!(queue.next(false).is_none(), "something is to be read");
        assert!(queue.next(true).is_some());
        queue.start_next(Stage::Query { number: 4 });
        assert!(queue.next(true).is_none(), "the jobs after it are for the next account");
        assert!(queue.of_query(4).is_some());

        let job = queue.pop().expect("it is started");
        queue.put_back(job);
        assert!(queue.next(true).is_none() && queue.of_query(4).is_some());
        assert!(queue.pop().is_some() && queue.next(false).is_some());
    }
}
