//! The findings as JSON: one object a line.

use super::findings::{Findings, Largest, Leg, Spread, Verdict};
use crate::cli::visible::json_line;
use serde_json::{Value, json};
use std::time::Duration;

/// One object for each leg, and one for the verdict. Each ends with a newline.
pub fn lines(findings: &Findings) -> String {
    let legs = findings.legs.iter().map(|leg| leg_object(findings, leg));
    legs.chain([verdict(findings)]).map(|object| json_line(&object)).collect()
}

fn leg_object(findings: &Findings, leg: &Leg) -> Value {
    let mut object = json!({
        "type": "leg",
        "from": findings.name(leg.from),
        "to": findings.name(leg.to),
        "pings": leg.pings,
        "unanswered_ns": nanoseconds(leg.waited),
        "whole": leg.is_whole,
    });
    if let Some(figures) = &leg.figures {
        object["there_ns"] = spread(&figures.there);
        object["back_ns"] = spread(&figures.back);
        object["clock_offset_ns"] = json!(figures.ahead);
        object["clock_error_ns"] = json!(figures.error);
        object["clock_skew_p999_ns"] = json!(figures.skew);
        object["three_messages_p999_ns"] = json!(figures.three_messages);
    }
    object
}

fn spread(spread: &Spread) -> Value {
    json!({"p50": spread.median, "p999": spread.p999, "max": spread.longest})
}

fn verdict(findings: &Findings) -> Value {
    let largest = |largest: Option<Largest>| {
        largest.map(|Largest { size, from, to }| {
            json!({"ns": nanoseconds(size), "from": findings.name(from), "to": findings.name(to)})
        })
    };
    let epsilon = findings.epsilon();
    json!({
        "type": "verdict",
        "delivery_bound": match findings.verdict() {
            Verdict::Holds => "holds",
            Verdict::Fails => "does not hold",
            Verdict::Unknown => "unknown",
        },
        "replicas": findings.replicas(),
        "delivery_bound_ns": nanoseconds(findings.bound),
        "delta_ns": nanoseconds(findings.delta()),
        "epsilon_ns": epsilon.map(|largest| nanoseconds(largest.size)),
        "needed_ns": nanoseconds(findings.needed()),
        "longest_hop": largest(findings.hop()),
        "longest_message_of_client": largest(findings.client_message()),
        "largest_clock_skew": largest(epsilon),
        "recommended_ms": findings.recommended().map(|bound| nanoseconds(bound) / 1_000_000),
    })
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
