//! `stablechatd`: a replica of the stablechat service.

mod logging;

use argh::FromArgs;
use stablechat_server::cli::{Arguments, Failure};
use stablechat_server::exit;
use std::process;

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

/// The command line; ends the process when it asks for help or cannot be understood.
fn arguments() -> Arguments {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Arguments::from_args(&["stablechatd"], words.get(1..).unwrap_or_default()).unwrap_or_else(|early| {
        match early.status {
            Ok(()) => {
                print!("{}", stablechat_protocol::help::fit(&early.output));
                process::exit(exit::DONE)
            }
            Err(()) => {
                eprintln!("{}\nRun `stablechatd --help` for help.", early.output.trim_end());
                process::exit(exit::USAGE)
            }
        }
    })
}

/// A thread that panics must not leave a process behind that seems to live.
fn end_process_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        process::exit(exit::SOFTWARE);
    }));
}
