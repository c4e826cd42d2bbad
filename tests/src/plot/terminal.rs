//! The picture for a terminal, in 80 columns.

use super::{Lane, Picture, State, height, rate, round_up, seconds_between_marks};
use std::time::Duration;

/// The columns of the plots, to the right of their scales.
const COLUMNS: usize = 70;
/// The rows of the plot of latencies: three for each power of ten.
const LATENCY_ROWS: usize = 12;
/// The powers of ten of milliseconds between which the scale of latencies lies.
const DECADES: (i32, i32) = (0, 4);
/// The rows of the plot of rates.
const RATE_ROWS: usize = 4;
/// Characters that are filled from the bottom, by eighths.
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The marks of events in the plots, in the order of the events.
const MARKS: &str = "123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";

impl Picture {
    /// The picture in lines of at most 80 columns.
    pub fn text(&self) -> String {
        let marks = self.marks();
        let mut lines = vec![format!("{:9}how long answers took: the median █, and the longest ░", "")];
        lines.extend(self.latency_rows(&marks));
        lines.push(format!("{:9}answers per second", ""));
        lines.extend(self.rate_rows(&marks));
        lines.push(self.axis(&marks));
        lines.push(self.seconds());
        lines.extend(self.lanes.iter().map(|lane| self.lane(lane)));
        lines.push(String::new());
        lines.extend(self.legend());
        lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
    }

    /// The mark of the event in each column that has one. Events in the same column stand side by side.
    fn marks(&self) -> Vec<Option<char>> {
        let mut marks = vec![None; COLUMNS];
        for ((at, _), mark) in self.events.iter().zip(MARKS.chars()) {
            let free = (self.place(*at, COLUMNS)..COLUMNS).find(|column| marks[*column].is_none());
            free.into_iter().for_each(|column| marks[column] = Some(mark));
        }
        marks
    }

    fn latency_rows(&self, marks: &[Option<char>]) -> Vec<String> {
        let (bins, _) = self.bins(COLUMNS);
        let rows_of = |latency: Option<Duration>| {
            // Even the shortest latency shows, so that a column without answers differs.
            latency.map_or(0, |latency| ((height(latency, DECADES) * LATENCY_ROWS as f64).round() as usize).max(1))
        };
        let heights: Vec<(usize, usize)> =
            bins.iter().map(|bin| (rows_of(bin.median()), rows_of(bin.longest()))).collect();
        let cell = |row: usize, column: usize| match heights[column] {
            (median, _) if row <= median => '█',
            (_, longest) if row <= longest => '░',
            _ if marks[column].is_some() => '┊',
            _ => ' ',
        };
        let rows_of_decade = LATENCY_ROWS / (DECADES.1 - DECADES.0) as usize;
        let rows = (1..=LATENCY_ROWS).rev().map(|row| {
            let label = match row % rows_of_decade {
                0 => format!("{} ms", 10u32.pow(DECADES.0 as u32 + (row / rows_of_decade) as u32)),
                _ => String::new(),
            };
            line(&label, (0..COLUMNS).map(|column| cell(row, column)))
        });
        rows.collect()
    }

    fn rate_rows(&self, marks: &[Option<char>]) -> Vec<String> {
        let (bins, width) = self.bins(COLUMNS);
        let rates: Vec<f64> = bins.iter().map(|bin| rate(bin, width)).collect();
        let top = round_up(rates.iter().copied().fold(0.0, f64::max));
        let cell = |row: usize, column: usize| {
            let eighths = (rates[column] / top * (RATE_ROWS * 8) as f64).round() as usize;
            match eighths.saturating_sub((row - 1) * 8).min(8) {
                0 if marks[column].is_some() => '┊',
                filled => BLOCKS[filled],
            }
        };
        let rows = (1..=RATE_ROWS).rev().map(|row| {
            let label = if row == RATE_ROWS { format!("{top}") } else { String::new() };
            line(&label, (0..COLUMNS).map(|column| cell(row, column)))
        });
        rows.collect()
    }

    fn axis(&self, marks: &[Option<char>]) -> String {
        let text: String = marks.iter().map(|mark| mark.unwrap_or('─')).collect();
        format!("{:>8}└{text}", "0")
    }

    /// The time, below the axis.
    fn seconds(&self) -> String {
        let mut text = format!("{:9}", "");
        for second in (0..=self.end.as_secs()).step_by(seconds_between_marks(self.end)) {
            let column = 9 + self.place(Duration::from_secs(second), COLUMNS);
            let label = format!("{second} s");
            if column >= text.len() && column + label.len() <= 9 + COLUMNS {
                text = format!("{text:column$}{label}");
            }
        }
        text
    }

    fn lane(&self, lane: &Lane) -> String {
        let states = (0..COLUMNS as u32).map(|column| lane.at(self.end * (2 * column + 1) / (2 * COLUMNS as u32)));
        let text: String = states
            .map(|state| match state {
                State::Runs => '━',
                State::Paused => '╌',
                State::Down => ' ',
            })
            .collect();
        format!("{:>8} {text}", lane.name)
    }

    /// The explanation of the marks, several in a line.
    fn legend(&self) -> Vec<String> {
        let each = self.events.iter().zip(MARKS.chars());
        let each: Vec<String> =
            each.map(|((at, text), mark)| format!("{mark} {:>5.1} s {text}", at.as_secs_f64())).collect();
        let width = each.iter().map(|text| text.chars().count() + 3).max().unwrap_or(1);
        let in_line = (COLUMNS / width).max(1);
        let pad = |text: &String| format!("{text:width$}");
        each.chunks(in_line).map(|some| format!("{:9}{}", "", some.iter().map(pad).collect::<String>())).collect()
    }
}

/// A row of a plot, with its label on the scale.
fn line(label: &str, cells: impl Iterator<Item = char>) -> String {
    format!("{label:>8}│{}", cells.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::super::tests::picture;

    #[test]
    fn the_picture_fits_80_columns_and_shows_answers_lanes_and_events() {
        let text = picture().text();
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let row = |label: &str| text.lines().find(|line| line.starts_with(label)).unwrap_or_default().to_string();
        // The answer that took a second is in the column after the half of the time, in the row for a second.
        let second: Vec<char> = row(" 1000 ms│").chars().collect();
        assert_eq!(second.iter().position(|cell| *cell == '█'), Some(9 + 38), "{text}");
        assert!(!row("10000 ms│").contains('█'), "{text}");
        let lane: Vec<char> = row("       a ").chars().collect();
        assert_eq!((lane[9 + 20], lane[9 + 30], lane[9 + 60]), ('━', ' ', '━'), "{text}");
        assert!(text.contains("1   4.0 s kill a & b   2   7.0 s start a"), "{text}");
    }
}
