//! What the operating system knows of this process, by the names that all Prometheus clients use.

use super::page::Page;
use procfs::process::{LimitValue, Process};
use procfs::{ProcResult, WithCurrentSystemInfo, ticks_per_second};
use rustix::time::{ClockId, clock_gettime};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The process's use of resources.
struct Usage {
    processor_seconds: f64,
    resident_bytes: u64,
    open_files: usize,
    open_files_max: Option<u64>,
    started: f64,
}

/// Writes the metrics of the process; none of them when the operating system does not tell.
pub fn write(page: &mut Page) -> fmt::Result {
    let usage = match usage() {
        Ok(usage) => usage,
        Err(error) => {
            log::debug!("cannot read the process's use of resources: {error}");
            return Ok(());
        }
    };
    page.counter("process_cpu_seconds_total", "Processor time spent.", usage.processor_seconds)?;
    page.gauge("process_resident_memory_bytes", "Memory in use.", usage.resident_bytes)?;
    page.gauge("process_open_fds", "Open files and sockets.", usage.open_files)?;
    if let Some(most) = usage.open_files_max {
        page.gauge("process_max_fds", "Limit of open files and sockets.", most)?;
    }
    page.gauge("process_start_time_seconds", "When the process started, since the Unix epoch.", usage.started)
}

fn usage() -> ProcResult<Usage> {
    let process = Process::myself()?;
    let stat = process.stat()?;
    let seconds = |ticks: u64| ticks as f64 / ticks_per_second() as f64;
    let up = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Usage {
        processor_seconds: seconds(stat.utime + stat.stime),
        resident_bytes: stat.rss_bytes().get(),
        open_files: process.fd_count()?,
        open_files_max: match process.limits()?.max_open_files.soft_limit {
            LimitValue::Value(limit) => Some(limit),
            LimitValue::Unlimited => None,
        },
        started: now.as_secs_f64() - up.as_secs_f64() + seconds(stat.starttime),
    })
}
