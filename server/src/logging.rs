//! What becomes of log lines: for a terminal or a file with their time and level, for systemd's journal as it wants them.

use env_logger::{Builder, Env};
use log::{Level, Record};
use std::io::{self, Write};

/// Sends log lines to standard error, from the level in `RUST_LOG` on, or from info.
pub fn start() {
    let mut builder = Builder::from_env(Env::default().default_filter_or("info"));
    if is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref()) {
        builder.format(write_for_journal);
    }
    builder.init();
}

/// Whether standard error goes to the journal: a stream of which systemd has told the device and the inode. The variable alone
/// proves nothing, since it is inherited by whoever redirects the stream.
fn is_journal(stream: Option<&str>) -> bool {
    rustix::fs::fstat(rustix::stdio::stderr())
        .is_ok_and(|stderr| stream == Some(&format!("{}:{}", stderr.st_dev, stderr.st_ino)))
}

/// A record as the journal wants it: each line with its priority as `sd-daemon(3)` has it, and without the time, which the
/// journal notes itself.
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
    fn the_journal_is_known_by_its_stream() {
        let stderr = rustix::fs::fstat(rustix::stdio::stderr()).expect("it is open");
        assert!(is_journal(Some(&format!("{}:{}", stderr.st_dev, stderr.st_ino))));
        assert!(!is_journal(Some(&format!("{}:{}", stderr.st_dev, stderr.st_ino + 1))), "it was redirected");
        assert!(!is_journal(None));
    }
}
