//! A plot of latencies over time, as an SVG file: a dot for each answer, on a logarithmic scale, and a line for each event.

use std::fmt::{self, Write};
use std::time::Duration;

/// What is plotted.
pub struct Plot<'a> {
    /// The heading.
    pub title: &'a str,
    /// When each answer came, and how long it took; by time.
    pub answers: &'a [(Duration, Duration)],
    /// What happened when; by time.
    pub events: &'a [(Duration, String)],
    /// A latency to be marked by a horizontal line, and what it is.
    pub bound: (Duration, &'a str),
}

const WIDTH: f64 = 1400.0;
const HEIGHT: f64 = 560.0;
/// Where the plot's area begins and ends.
const LEFT: f64 = 70.0;
const RIGHT: f64 = WIDTH - 20.0;
const TOP: f64 = 150.0;
const BOTTOM: f64 = HEIGHT - 45.0;
/// The powers of ten, in milliseconds, that the scale goes from and to.
const DECADES: (i32, i32) = (-1, 4);

impl Plot<'_> {
    /// The file's text.
    pub fn svg(&self) -> String {
        let mut svg = String::new();
        self.write(&mut svg).expect("writing to a string does not fail");
        svg
    }

    fn write(&self, svg: &mut String) -> fmt::Result {
        writeln!(
            svg,
            "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}' \
             font-family='sans-serif' font-size='12'>\n<rect width='100%' height='100%' fill='white'/>\n\
             <text x='{LEFT}' y='24' font-size='16'>{}</text>",
            escaped(self.title)
        )?;
        self.write_scales(svg)?;
        self.write_answers(svg)?;
        self.write_events(svg)?;
        writeln!(svg, "</svg>")
    }

    fn write_scales(&self, svg: &mut String) -> fmt::Result {
        for decade in DECADES.0..=DECADES.1 {
            let milliseconds = 10f64.powi(decade);
            let y = y_of(Duration::from_secs_f64(milliseconds / 1e3));
            writeln!(svg, "<line x1='{LEFT}' x2='{RIGHT}' y1='{y:.1}' y2='{y:.1}' stroke='#ddd'/>")?;
            writeln!(svg, "<text x='{}' y='{:.1}' text-anchor='end'>{milliseconds} ms</text>", LEFT - 6.0, y + 4.0)?;
        }
        let (bound, name) = self.bound;
        let y = y_of(bound);
        writeln!(svg, "<line x1='{LEFT}' x2='{RIGHT}' y1='{y:.1}' y2='{y:.1}' stroke='#a00' stroke-dasharray='4 4'/>")?;
        writeln!(svg, "<text x='{RIGHT}' y='{:.1}' text-anchor='end' fill='#a00'>{}</text>", y - 4.0, escaped(name))?;
        for second in (0..=self.end().as_secs()).step_by(5) {
            let x = self.x_of(Duration::from_secs(second));
            writeln!(svg, "<line x1='{x:.1}' x2='{x:.1}' y1='{BOTTOM}' y2='{}' stroke='black'/>", BOTTOM + 5.0)?;
            writeln!(svg, "<text x='{x:.1}' y='{}' text-anchor='middle'>{second} s</text>", BOTTOM + 20.0)?;
        }
        writeln!(svg, "<path d='M{LEFT} {TOP}V{BOTTOM}H{RIGHT}' fill='none' stroke='black'/>")
    }

    /// Answers that lie on the same spot are drawn once.
    fn write_answers(&self, svg: &mut String) -> fmt::Result {
        let spots = self.answers.iter().map(|(at, latency)| {
            let tenths = |value: f64| (value * 2.0).round() as i64;
            (tenths(self.x_of(*at)), tenths(y_of(*latency)))
        });
        let spots: std::collections::BTreeSet<(i64, i64)> = spots.collect();
        writeln!(svg, "<g fill='#06c' fill-opacity='0.6'>")?;
        for (x, y) in spots {
            writeln!(svg, "<circle cx='{}' cy='{}' r='1.3'/>", x as f64 / 2.0, y as f64 / 2.0)?;
        }
        writeln!(svg, "</g>")
    }

    fn write_events(&self, svg: &mut String) -> fmt::Result {
        for (at, name) in self.events {
            let x = self.x_of(*at);
            let (top, name) = (TOP - 6.0, escaped(name));
            writeln!(
                svg,
                "<line x1='{x:.1}' x2='{x:.1}' y1='{top}' y2='{BOTTOM}' stroke='#c50' stroke-opacity='0.7'/>"
            )?;
            writeln!(svg, "<text transform='translate({:.1} {top}) rotate(-60)' fill='#c50'>{name}</text>", x + 3.0)?;
        }
        Ok(())
    }

    fn end(&self) -> Duration {
        let answers = self.answers.last().map_or(Duration::ZERO, |(at, _)| *at);
        answers.max(self.events.last().map_or(Duration::ZERO, |(at, _)| *at)).max(Duration::from_secs(1))
    }

    fn x_of(&self, at: Duration) -> f64 {
        LEFT + (RIGHT - LEFT) * at.as_secs_f64() / self.end().as_secs_f64()
    }
}

fn y_of(latency: Duration) -> f64 {
    let decades = (latency.as_secs_f64() * 1e3).max(1e-3).log10();
    let share = (decades - f64::from(DECADES.0)) / f64::from(DECADES.1 - DECADES.0);
    BOTTOM - (BOTTOM - TOP) * share.clamp(0.0, 1.0)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_plotted_lies_where_it_belongs() {
        let second = Duration::from_secs(1);
        let answers = [(Duration::ZERO, Duration::from_micros(100)), (2 * second, 10 * second)];
        let events = [(second, "a & b".to_string())];
        let svg = Plot { title: "x < y", answers: &answers, events: &events, bound: (second, "the bound") }.svg();
        assert!(svg.contains(&format!("<circle cx='{LEFT}' cy='{BOTTOM}'")), "{svg}");
        assert!(svg.contains(&format!("<circle cx='{RIGHT}' cy='{TOP}'")), "{svg}");
        assert!(svg.contains("x &lt; y") && svg.contains("a &amp; b"), "{svg}");
    }
}
