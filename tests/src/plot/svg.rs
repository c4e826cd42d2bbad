//! The picture as an SVG file: latencies as dots, rates as an area, and the replicas as bars, over one axis of time.

use super::{Lane, Picture, State, height, rate, round_up, seconds_between_marks};
use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::time::Duration;

const WIDTH: f64 = 1200.0;
/// The left and right edges of the plots.
pub(crate) const LEFT: f64 = 84.0;
pub(crate) const RIGHT: f64 = WIDTH - 24.0;
/// The top and bottom edges of the plot of latencies.
const LATENCIES: (f64, f64) = (132.0, 412.0);
/// The top and bottom edges of the plot of rates.
const RATES: (f64, f64) = (452.0, 552.0);
/// The top edge of the first replica's bar, the height of a bar, and the distance from one bar to the next.
const LANES: f64 = 586.0;
const LANE: f64 = 14.0;
const LANE_STEP: f64 = 24.0;
/// The powers of ten of milliseconds between which the scale of latencies lies.
const DECADES: (i32, i32) = (-1, 4);
/// Answers with a higher latency are drawn larger: they are few, and they are what the picture is for.
const SLOW: Duration = Duration::from_millis(100);
/// The number of equal parts of the time, each with a rate.
const BINS: usize = 120;
/// The number of lines for the names of events, and the room that a name takes in its line. Names that are close to each other
/// go to different lines.
const EVENT_LINES: usize = 3;
const EVENT_ROOM: f64 = 64.0;

const INK: &str = "#24292f";
pub(crate) const FAINT: &str = "#6e7781";
const GRID: &str = "#e3e6ea";
pub(crate) const ANSWERS: &str = "#1f6feb";
const SLOW_ANSWERS: &str = "#0a3069";
pub(crate) const EVENTS: &str = "#bc4c00";
const RUNS: &str = "#2da44e";

impl Picture {
    /// The file's text.
    pub fn svg(&self) -> String {
        let mut svg = String::new();
        self.write(&mut svg).expect("writing to a string does not fail");
        svg
    }

    fn write(&self, svg: &mut String) -> fmt::Result {
        let height = LANES + LANE_STEP * self.lanes.len() as f64 + 34.0;
        write_head(svg, height, &self.title, &self.verdict)?;
        self.write_time(svg, height)?;
        self.write_rates(svg)?;
        self.write_latency_scale(svg)?;
        self.write_events(svg)?;
        self.write_answers(svg)?;
        self.lanes.iter().enumerate().try_for_each(|(number, lane)| self.write_lane(svg, number, lane))?;
        writeln!(svg, "</svg>")
    }

    /// The axis of time, at the bottom.
    fn write_time(&self, svg: &mut String, height: f64) -> fmt::Result {
        for second in (0..=self.end.as_secs()).step_by(seconds_between_marks(self.end)) {
            let x = self.x_of(Duration::from_secs(second));
            let y = height - 14.0;
            writeln!(svg, "<text x='{x:.1}' y='{y}' text-anchor='middle' fill='{FAINT}'>{second} s</text>")?;
        }
        Ok(())
    }

    fn write_latency_scale(&self, svg: &mut String) -> fmt::Result {
        let (top, _) = LATENCIES;
        writeln!(svg, "<text x='{LEFT}' y='{}' font-weight='600'>How long each answer took</text>", top - 48.0)?;
        for decade in DECADES.0..=DECADES.1 {
            let latency = Duration::from_secs_f64(10f64.powi(decade) / 1e3);
            let (parts, unit) = if decade < 3 { (1e3, "ms") } else { (1.0, "s") };
            write_grid(svg, latency_y(latency), &format!("{} {unit}", latency.as_secs_f64() * parts))?;
        }
        let (bound, name) = &self.bound;
        let y = latency_y(*bound);
        writeln!(svg, "<path d='M{LEFT} {y:.1}H{RIGHT}' stroke='{FAINT}' stroke-dasharray='5 4'/>")?;
        let (y, name) = (y - 5.0, escaped(name));
        writeln!(svg, "<text x='{RIGHT}' y='{y:.1}' text-anchor='end' fill='{FAINT}'>{name}</text>")
    }

    /// Answers at the same spot are drawn once, so that the file stays small.
    fn write_answers(&self, svg: &mut String) -> fmt::Result {
        let halves = |value: f64| (value * 2.0).round() as i64;
        let spot = |(at, latency): &(Duration, Duration)| (halves(self.x_of(*at)), halves(latency_y(*latency)));
        for (is_slow, radius, color) in [(false, 1.6, ANSWERS), (true, 3.2, SLOW_ANSWERS)] {
            let answers = self.answers.iter().filter(|(_, latency)| (*latency > SLOW) == is_slow);
            let spots: BTreeSet<(i64, i64)> = answers.map(spot).collect();
            writeln!(svg, "<g fill='{color}' fill-opacity='0.55'>")?;
            for (x, y) in spots {
                writeln!(svg, "<circle cx='{}' cy='{}' r='{radius}'/>", x as f64 / 2.0, y as f64 / 2.0)?;
            }
            writeln!(svg, "</g>")?;
        }
        Ok(())
    }

    fn write_rates(&self, svg: &mut String) -> fmt::Result {
        let (top, bottom) = RATES;
        writeln!(svg, "<text x='{LEFT}' y='{}' font-weight='600'>Answers per second</text>", top - 12.0)?;
        let (bins, width) = self.bins(BINS);
        let rates: Vec<f64> = bins.iter().map(|bin| rate(bin, width)).collect();
        let most = round_up(rates.iter().copied().fold(0.0, f64::max));
        let y_of = |rate: f64| bottom - (bottom - top) * rate / most;
        for share in [0.0, 0.5, 1.0] {
            write_grid(svg, y_of(most * share), &format!("{}", most * share))?;
        }
        let mut path = format!("M{LEFT} {bottom}");
        for (number, rate) in (0u32..).zip(rates) {
            write!(path, "V{:.1}H{:.1}", y_of(rate), self.x_of(width * (number + 1)))?;
        }
        let fill = format!("fill='{ANSWERS}' fill-opacity='0.2' stroke='{ANSWERS}' stroke-width='1.2'");
        writeln!(svg, "<path d='{path}V{bottom}' {fill}/>")
    }

    /// A line through all plots for each event, and its name above.
    fn write_events(&self, svg: &mut String) -> fmt::Result {
        let bottom = LANES + LANE_STEP * self.lanes.len() as f64 - (LANE_STEP - LANE);
        let mut ends = [f64::MIN; EVENT_LINES];
        for (at, name) in &self.events {
            let x = self.x_of(*at);
            let line = ends.iter().position(|end| *end <= x).unwrap_or(EVENT_LINES - 1);
            ends[line] = x + EVENT_ROOM;
            let y = LATENCIES.0 - 8.0 - 13.0 * line as f64;
            let stroke = format!("stroke='{EVENTS}' stroke-opacity='0.55'");
            writeln!(svg, "<path d='M{x:.1} {y}V{bottom}' {stroke}/>")?;
            writeln!(svg, "<text x='{:.1}' y='{y}' fill='{EVENTS}'>{}</text>", x + 4.0, escaped(name))?;
        }
        Ok(())
    }

    /// A bar while the replica runs, a pale one while it is suspended, and only a line while it is down.
    fn write_lane(&self, svg: &mut String, number: usize, lane: &Lane) -> fmt::Result {
        let y = LANES + LANE_STEP * number as f64;
        let (middle, name) = (y + LANE / 2.0, escaped(&lane.name));
        writeln!(svg, "<text x='{}' y='{}' text-anchor='end'>{name}</text>", LEFT - 10.0, middle + 4.0)?;
        writeln!(svg, "<path d='M{LEFT} {middle}H{RIGHT}' stroke='{GRID}'/>")?;
        for (from, to, state) in lane.spans(self.end) {
            let opacity = match state {
                State::Runs => 0.85,
                State::Paused => 0.3,
                State::Down => continue,
            };
            let (x, width) = (self.x_of(from), self.x_of(to) - self.x_of(from));
            writeln!(
                svg,
                "<rect x='{x:.1}' y='{y}' width='{width:.1}' height='{LANE}' rx='3' fill='{RUNS}' fill-opacity='{opacity}'/>"
            )?;
        }
        Ok(())
    }

    fn x_of(&self, at: Duration) -> f64 {
        LEFT + (RIGHT - LEFT) * (at.as_secs_f64() / self.end.as_secs_f64()).min(1.0)
    }
}

/// The beginning of a file: its size, and the headings.
pub(crate) fn write_head(svg: &mut String, height: f64, title: &str, below: &str) -> fmt::Result {
    let (title, below) = (escaped(title), escaped(below));
    writeln!(
        svg,
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' height='{height}' \
         font-family='system-ui, Helvetica, Arial, sans-serif' font-size='12' fill='{INK}'>\n\
         <rect width='100%' height='100%' fill='white'/>\n\
         <text x='{LEFT}' y='34' font-size='19' font-weight='600'>{title}</text>\n\
         <text x='{LEFT}' y='57' font-size='14' fill='{FAINT}'>{below}</text>"
    )
}

/// A line of a scale, with its label.
pub(crate) fn write_grid(svg: &mut String, y: f64, label: &str) -> fmt::Result {
    writeln!(svg, "<path d='M{LEFT} {y:.1}H{RIGHT}' stroke='{GRID}'/>")?;
    let (x, y) = (LEFT - 10.0, y + 4.0);
    writeln!(svg, "<text x='{x}' y='{y:.1}' text-anchor='end' fill='{FAINT}'>{label}</text>")
}

fn latency_y(latency: Duration) -> f64 {
    let (top, bottom) = LATENCIES;
    bottom - (bottom - top) * height(latency, DECADES)
}

pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::picture;
    use super::*;

    #[test]
    fn answers_lanes_and_events_are_drawn() {
        let svg = picture().svg();
        let halves = |value: f64| (value * 2.0).round() / 2.0;
        let (x, y) = (halves(LEFT + (RIGHT - LEFT) * 0.55), halves(latency_y(Duration::from_secs(1))));
        assert!(svg.contains(&format!("<circle cx='{x}' cy='{y}' r='3.2'")), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 10, "{svg}");
        assert_eq!(svg.matches("<rect x=").count(), 2, "the replica runs twice: {svg}");
        assert!(svg.contains("x &lt; y") && svg.contains("kill a &amp; b") && svg.contains("all is well"), "{svg}");
    }
}
