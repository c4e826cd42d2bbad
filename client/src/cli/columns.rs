//! Tables for people.

use crate::cli::visible::visible;

/// The most columns of a screen that a table takes.
pub const WIDTH_MAX: usize = 80;

/// A heading, and whether the cells below it are numbers.
pub type Heading = (&'static str, bool);

/// The cells below the headings. A short row has the first of them only.
pub type Row = Vec<String>;

/// Rows under their headings. Every line has its end.
pub fn lay_out(headings: &[Heading], rows: &[Row]) -> String {
    let titles: Row = headings.iter().map(|(heading, _)| (*heading).to_string()).collect();
    let lines: Vec<&Row> = std::iter::once(&titles).chain(rows).collect();
    // The last cell of a short row reaches over the columns that follow.
    let has_column = |row: &&&Row, column: usize| column + 1 < row.len() || row.len() == headings.len();
    let width = |column: usize| {
        let cells = lines.iter().filter(|row| has_column(row, column)).map(|row| row[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    for row in lines {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            if column > 0 {
                line += "  ";
            }
            let width = widths[column];
            line += &if headings[column].1 { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
        }
        text += &visible(line.trim_end());
        text.push('\n');
    }
    text
}

/// A name in at most so many characters.
pub fn shorten(name: &str, most: usize) -> String {
    match name.chars().count() > most {
        true => name.chars().take(most - 1).chain(['\u{2026}']).collect(),
        false => name.into(),
    }
}
