//! `stablechatd`: a replica of the stablechat service.

mod logging;

use stablechat_command_line::Early;
use stablechat_server::cli::{Arguments, Failure};
use stablechat_server::exit;
use std::process;

/// Serves Rust and RocksDB alike. Most of what a request allocates is small and lives shortly, and part of it is freed by another
/// thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    end_process_on_panic();
    logging::start();
    process::exit(match arguments().execute() {
        Ok(()) => exit::DONE,
        Err(Failure { code, message }) => {
            log::error!("{message}");
            code
        }
    });
}

/// Parses the command line. Ends the process when it asks for help or cannot be understood.
fn arguments() -> Arguments {
    stablechat_command_line::parse("stablechatd", std::env::args_os().skip(1)).unwrap_or_else(|early| match early {
        Early::Help(text) => {
            print!("{text}");
            process::exit(exit::DONE)
        }
        Early::Usage(fault) => {
            eprintln!("{fault}");
            process::exit(exit::USAGE)
        }
    })
}

/// Makes a panic in any thread end the process. Otherwise a replica whose applier has panicked would keep accepting connections.
fn end_process_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        process::exit(exit::SOFTWARE);
    }));
}
