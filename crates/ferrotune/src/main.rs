//! The `ferrotune` command. What needs libtorch it hands to `ferrotune-torch`, which lies beside it.
//!
//! It takes the light modules in directly instead of through the library, whose object files name libtorch's
//! symbols: a program that is linked with them loads libtorch, used or not, and starts ten times as slowly.

#[expect(unreachable_pub, reason = "the library makes it public")]
mod cli;
#[expect(dead_code, unreachable_pub, reason = "the library uses the rest and makes it public")]
mod files;
#[expect(dead_code, unreachable_pub, reason = "the library uses the rest and makes it public")]
mod progress;
#[expect(unreachable_pub, reason = "the library makes it public")]
mod settings;
#[expect(unreachable_pub, reason = "the library makes it public")]
mod template;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Args;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = args.check() {
        return cli::finish(args.json, Err(error));
    }
    if args.command.is_light() {
        return cli::finish(args.json, cli::data::run(&args.command));
    }
    hand_over()
}

/// Becomes `ferrotune-torch` with the same arguments.
fn hand_over() -> ExitCode {
    let beside = std::env::current_exe().map(|path| path.with_file_name("ferrotune-torch"));
    let Ok(program) = beside else {
        eprintln!("error: cannot tell where this program lies");
        return ExitCode::FAILURE;
    };
    let mut command = std::process::Command::new(&program);
    command.args(std::env::args_os().skip(1));
    // How long OpenMP's threads, which read this as the program starts, spin after each of libtorch's operations.
    // Left to itself a thread spins for milliseconds, and where another program wants the core as well, training
    // becomes many times as slow; on a quiet machine this is as fast.
    if ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"].iter().all(|name| std::env::var_os(name).is_none()) {
        command.env("GOMP_SPINCOUNT", "20000");
    }
    // oneDNN keeps what it compiled for the last 1,024 products, some hundred kilobytes each, and every new batch
    // length brings products of new sizes. A pass needs a few dozen.
    if std::env::var_os("ONEDNN_PRIMITIVE_CACHE_CAPACITY").is_none() {
        command.env("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128");
    }
    #[cfg(unix)]
    let error = std::os::unix::process::CommandExt::exec(&mut command);
    #[cfg(not(unix))]
    let error = match command.status() {
        Ok(status) => return ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)),
        Err(error) => error,
    };
    eprintln!("error: cannot start {}: {error} (it is built with the feature `torch`)", program.display());
    ExitCode::FAILURE
}
