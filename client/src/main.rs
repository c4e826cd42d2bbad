//! The program `stablechat`.

use stablechat_client::cli::app;
use stablechat_client::cli::arguments::{self, Parsed};
use stablechat_client::cli::exit::{self, Failure};
use stablechat_client::cli::prompt::restore_terminal;
use stablechat_client::cli::screen::{remark, write_results};
use stablechat_client::cli::{probe, watch};
use std::process::ExitCode;

fn main() -> ExitCode {
    end_at_panic();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("off")).init();
    let result = match arguments::parse(std::env::args_os().skip(1)) {
        Ok(Parsed::Run(settings)) => app::run(*settings),
        Ok(Parsed::Probe(settings)) => probe::run(settings),
        Ok(Parsed::Watch(settings)) => watch::run(settings),
        Ok(Parsed::Help(text)) => write_results(&text).map(|_| exit::DONE),
        Err(failure) => Err(failure),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(Failure { code, message }) => {
            remark(&format!("stablechat: {message}\n"));
            ExitCode::from(code)
        }
    }
}

/// A panic in any thread ends the process, and leaves the terminal as it was.
fn end_at_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore_terminal();
        default(panic);
        std::process::exit(i32::from(exit::INTERNAL));
    }));
}
