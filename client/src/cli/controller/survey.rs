//! OutgoingQuery every replica what it does.
//!
//! Not a query: it has no place in the order, every replica is to answer for itself, and one that does not is a result too.

use super::{Controller, Effect};
use crate::cli::controller::job::{Job, Stage};
use crate::cli::exit::{self, Failure};
use crate::cli::print::What;
use crate::cli::status::Survey;
use stablechat_protocol::message::ToReplica;
use stablechat_protocol::status::StatusReport;
use stablechat_protocol::time::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a replica may take to answer, unless the delivery bound is longer. Whoever takes longer is not in reach.
const PATIENCE: Duration = Duration::from_secs(2);

/// A survey that is under way; at most one is.
pub(super) struct Inquiry {
    /// What was answered, by link.
    reports: BTreeMap<usize, StatusReport>,
    /// When the others are given up.
    until: Timestamp,
}

impl Controller {
    /// All links have been ready or failed once: who is not in reach now is not waited for by a survey.
    pub fn on_all_tried(&mut self) {
        self.are_all_tried = true;
    }

    /// Asks all replicas. `None` while they are being asked already.
    pub(super) fn start_survey(&mut self, now: Timestamp) -> Option<Stage> {
        if self.inquiry.is_some() {
            return None;
        }
        let until = now.after(PATIENCE.max(self.settings.cluster.delivery_bound));
        self.inquiry = Some(Inquiry { reports: BTreeMap::new(), until });
        self.effects.push(Effect::Send { link: None, message: ToReplica::Status });
        Some(Stage::Survey)
    }

    /// A link became ready while a survey may be under way.
    pub(super) fn survey_link(&mut self, link: usize) {
        if self.inquiry.is_some() {
            self.effects.push(Effect::Send { link: Some(link), message: ToReplica::Status });
        }
    }

    /// A replica has answered.
    pub(super) fn on_report(&mut self, link: usize, report: StatusReport) {
        if let Some(inquiry) = &mut self.inquiry {
            inquiry.reports.insert(link, report);
        }
    }

    /// Whether all have answered who will.
    pub(super) fn is_surveyed(&self, now: Timestamp) -> bool {
        let Some(inquiry) = &self.inquiry else { return true };
        let links = 0..self.settings.cluster.replicas.len();
        let is_awaited =
            |link: &usize| !inquiry.reports.contains_key(link) && (!self.are_all_tried || self.reach.contains(*link));
        inquiry.until <= now || !links.into_iter().any(|link| is_awaited(&link))
    }

    /// When a survey ends whoever has not answered. One that waits for jobs before it ends with them.
    pub(super) fn survey_deadline(&self) -> Option<Timestamp> {
        let is_next = self.jobs.front().is_some_and(|job| job.stage == Stage::Survey);
        self.inquiry.as_ref().filter(|_| is_next).map(|inquiry| inquiry.until)
    }

    /// Shows what was answered.
    pub(super) fn finish_survey(&mut self, job: &Job) {
        let Some(Inquiry { mut reports, .. }) = self.inquiry.take() else { return };
        let names = self.settings.cluster.replicas.iter().map(|replica| replica.name.clone());
        let survey = Survey { replicas: names.enumerate().map(|(link, name)| (name, reports.remove(&link))).collect() };
        let code = survey.code();
        self.say(What::Status(survey), None);
        if code != exit::DONE {
            self.record(job, &Failure::new(code, "not all replicas serve and are the same"));
        }
    }
}
