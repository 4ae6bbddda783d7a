//! `ferrotune-torch`: the commands that need libtorch. People start it through `ferrotune`.

use std::process::ExitCode;

use clap::Parser;
use ferrotune::cli::{self, Args};

fn main() -> ExitCode {
    ferrotune_model::keep_freed_memory();
    // Running out of memory becomes an error of the command's; its panic is not shown besides.
    let show = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !ferrotune_model::is_out_of_memory(info.payload()) {
            show(info);
        }
    }));
    let args = Args::parse();
    let result = if args.command.is_light() {
        cli::data::run(&args.command)
    } else {
        if ferrotune::commands::stops_between_steps(&args.command) {
            ferrotune::progress::catch_interrupts();
        }
        ferrotune::commands::run(&args.command)
    };
    cli::finish(args.json, result)
}
