//! Log lines on standard error: with time and level for a terminal or a file, with a priority for systemd's journal.

use env_logger::{Builder, Env};
use log::{Level, Record};
use std::io::{self, Write};

/// Starts logging: what `RUST_LOG` selects, or info and above.
pub fn start() {
    let mut builder = Builder::from_env(Env::default().default_filter_or("info"));
    if is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref()) {
        builder.format(write_for_journal);
    }
    builder.init();
}

/// Whether standard error goes to the journal. systemd sets `JOURNAL_STREAM` to the device and inode of the stream that it
/// made. That the variable is set proves nothing: a process inherits it even when its standard error was redirected.
fn is_journal(stream: Option<&str>) -> bool {
    rustix::fs::fstat(rustix::stdio::stderr())
        .is_ok_and(|stderr| stream == Some(&format!("{}:{}", stderr.st_dev, stderr.st_ino)))
}

/// Writes each line of a record with its priority as in `sd-daemon(3)`. The time is left out: the journal adds it.
fn write_for_journal(out: &mut impl Write, record: &Record<'_>) -> io::Result<()> {
    let priority = match record.level() {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    record.args().to_string().lines().try_for_each(|line| writeln!(out, "<{priority}>{line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_priority_and_no_time() {
        for (level, expected) in [
            (Level::Error, "<3>the disk\n<3>is full\n"),
            (Level::Warn, "<4>the disk\n<4>is full\n"),
            (Level::Info, "<6>the disk\n<6>is full\n"),
            (Level::Debug, "<7>the disk\n<7>is full\n"),
        ] {
            let mut out = Vec::new();
            let record = Record::builder().level(level).args(format_args!("the disk\nis full")).build();
            write_for_journal(&mut out, &record).expect("memory does not fail");
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }

    #[test]
    fn the_journal_is_recognised_by_its_stream() {
        let stderr = rustix::fs::fstat(rustix::stdio::stderr()).expect("it is open");
        assert!(is_journal(Some(&format!("{}:{}", stderr.st_dev, stderr.st_ino))));
        assert!(!is_journal(Some(&format!("{}:{}", stderr.st_dev, stderr.st_ino + 1))), "it was redirected");
        assert!(!is_journal(None));
    }
}
