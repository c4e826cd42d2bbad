//! What clients of several services notice of a fault, in one picture: an SVG file.

use super::calls::Call;
use super::figures::Trial;
use crate::plot::height;
use crate::plot::svg::{ANSWERS, EVENTS, FAINT, LEFT, RIGHT, escaped, write_grid, write_head};
use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::time::{Duration, Instant};

/// The time before and after the fault that is drawn.
const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(3);
/// At most so many faults are drawn over each other.
const TRIALS_MAX: usize = 20;
/// The powers of ten of milliseconds between which the scale of latencies lies.
const DECADES: (i32, i32) = (-1, 4);
/// The height of a service's plot, and the distance from one to the next.
const PLOT: f64 = 150.0;
const PLOT_STEP: f64 = 214.0;
/// The top edge of the first plot.
const TOP: f64 = 116.0;
const FAILED: &str = "#cf222e";

/// The calls of a service around faults.
pub struct Panel {
    /// The service.
    pub title: String,
    /// The result in one sentence.
    pub verdict: String,
    /// By the time at which they ended.
    pub calls: Vec<Call>,
    pub trials: Vec<Trial>,
}

/// The file's text.
pub fn svg(title: &str, panels: &[Panel]) -> String {
    let mut svg = String::new();
    write(&mut svg, title, panels).expect("writing to a string does not fail");
    svg
}

fn write(svg: &mut String, title: &str, panels: &[Panel]) -> fmt::Result {
    let bottom = TOP + PLOT_STEP * panels.len() as f64 - (PLOT_STEP - PLOT);
    let height = bottom + 34.0;
    let below = format!(
        "How long each answer took, by the time at which it came. Red: a call that failed. At most {TRIALS_MAX} faults are drawn over \
         each other."
    );
    write_head(svg, height, title, &below)?;
    for (number, panel) in panels.iter().enumerate() {
        write_panel(svg, panel, TOP + PLOT_STEP * number as f64)?;
    }
    let x = x_of(0.0);
    writeln!(svg, "<path d='M{x:.1} {}V{bottom}' stroke='{EVENTS}' stroke-opacity='0.55'/>", TOP - 8.0)?;
    for half in -2..=6 {
        let (second, y) = (f64::from(half) / 2.0, bottom + 20.0);
        let x = x_of(second);
        writeln!(svg, "<text x='{x:.1}' y='{y}' text-anchor='middle' fill='{FAINT}'>{second} s</text>")?;
    }
    writeln!(svg, "</svg>")
}

fn write_panel(svg: &mut String, panel: &Panel, top: f64) -> fmt::Result {
    let (title, verdict) = (escaped(&panel.title), escaped(&panel.verdict));
    writeln!(
        svg,
        "<text x='{LEFT}' y='{}' font-size='14'><tspan font-weight='600'>{title}</tspan> <tspan fill='{FAINT}'>{verdict}</tspan></text>",
        top - 16.0
    )?;
    let y_of = |latency: Duration| top + PLOT * (1.0 - height(latency, DECADES));
    for decade in DECADES.0..=DECADES.1 {
        let latency = Duration::from_secs_f64(10f64.powi(decade) / 1e3);
        let label = if decade < 3 { format!("{} ms", 10f64.powi(decade)) } else { format!("{} s", latency.as_secs()) };
        write_grid(svg, y_of(latency), &label)?;
    }

    for (failed, color, width) in [(false, ANSWERS, 2.0), (true, FAILED, 4.0)] {
        let of_kind = |call: &&Call| call.failed == failed;
        let mut spots: BTreeSet<(i64, i64)> = BTreeSet::new();
        for trial in panel.trials.iter().take(TRIALS_MAX) {
            let calls = panel.calls.iter().filter(of_kind);
            let drawn = calls.filter_map(|call| Some((seconds_after(call.ended(), trial.begun)?, y_of(call.took))));
            spots.extend(drawn.map(|(second, y)| (x_of(second).round() as i64, y.round() as i64)));
        }
        let mut path = String::new();
        for (x, y) in spots {
            write!(path, "M{x} {y}h0")?;
        }
        writeln!(
            svg,
            "<path d='{path}' stroke='{color}' stroke-opacity='0.6' stroke-width='{width}' stroke-linecap='round'/>"
        )?;
    }
    Ok(())
}

/// How many seconds after the fault something was, if that is in the picture.
fn seconds_after(at: Instant, fault: Instant) -> Option<f64> {
    let begin = fault - BEFORE;
    let from_begin = at.checked_duration_since(begin).filter(|time| *time <= BEFORE + AFTER)?;
    Some(from_begin.as_secs_f64() - BEFORE.as_secs_f64())
}

fn x_of(second: f64) -> f64 {
    let share = (second + BEFORE.as_secs_f64()) / (BEFORE + AFTER).as_secs_f64();
    LEFT + (RIGHT - LEFT) * share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_drawn_where_they_ended() {
        let fault = Instant::now() + Duration::from_secs(10);
        let call = |after_ms: u64, failed| {
            let took = Duration::from_millis(10);
            Call { begun: fault + Duration::from_millis(after_ms) - took, took, failed }
        };
        let trials = vec![Trial { begun: fault, ended: fault + AFTER }];
        let calls = vec![call(1000, false), call(2000, true), call(9000, false)];
        let panel = Panel { title: "x < y".into(), verdict: String::new(), calls, trials };
        let svg = svg("faults", &[panel]);
        let y = (TOP + PLOT * 0.6).round();
        for (second, color) in [(1.0, ANSWERS), (2.0, FAILED)] {
            let spot = format!("d='M{} {y}h0' stroke='{color}'", x_of(second).round());
            assert!(svg.contains(&spot), "{spot} in {svg}");
        }
        assert!(svg.contains("x &lt; y"), "{svg}");
    }
}
