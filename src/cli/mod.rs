//! The command line: one file per command, errors and exit codes here.

mod bench;
mod branch;
mod check;
mod copy;
mod demo;
mod export;
mod history;
mod http;
mod import;
mod inspect;
mod merge;
mod offline;
mod output;
mod progress;
mod query;
mod restore;
mod serve;
mod settings;
mod snapshot;
mod status;
mod stream;
mod sync;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::inspect::UNKNOWN_KIND;
use crate::config::BAD_CONFIGURATION;
use crate::error::{Context, Error, Kind, Result};

/// `EX_CONFIG`: the service manager must not try again before a person has looked.
const EXIT_CONFIGURATION: u8 = 78;
/// As of arguments that make no sense.
const EXIT_USAGE: u8 = 2;

/// A search store for edge nodes: durable local writes, hybrid search, one daemon, one directory.
#[derive(Parser)]
#[command(name = "shoal", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 wrong usage; 3 not found; 4 conflict; \
5 unavailable or busy, try again later; 6 stored data is damaged; 78 wrong configuration";

#[derive(Subcommand)]
enum Command {
    /// Run the daemon
    Serve(serve::Serve),
    /// Run a daemon with a small real data set in it, and show searches
    Demo(demo::Demo),
    /// Write rows from a file or standard input, one JSON object a line
    Import(import::Import),
    /// Write a namespace's documents, one JSON object a line, so that import makes an equal one
    Export(export::Export),
    /// Copy a namespace, on the daemon
    Copy(copy::Copy),
    /// Write a namespace into one file
    Snapshot(snapshot::Snapshot),
    /// Make a namespace of a snapshot
    Restore(restore::Restore),
    /// Search a namespace
    Query(query::Query),
    /// Measure recall against latency on a namespace's own data
    Bench(bench::Bench),
    /// Show how the daemon or one namespace is
    Status(status::Status),
    /// Make a branch of a namespace; nothing is copied
    Branch(branch::Branch),
    /// Draw the tree of branches
    Branches(branch::Branches),
    /// Show the states of a namespace that can be asked for, and its tags
    History(history::History),
    /// Name a state of a namespace, so that it is kept
    Tag(history::Tag),
    /// Make a namespace's documents what they were, by one more commit
    Revert(history::Revert),
    /// Bring a deleted namespace back, or list what can be had back
    Undelete(history::Undelete),
    /// Merge one namespace's changes into another
    Merge(merge::Merge),
    /// Show in which documents two namespaces differ
    Diff(merge::Diff),
    /// List the states that lost in merges, write one again, or let go of it
    Conflicts(merge::Conflicts),
    /// Bring this node and its bucket together
    Sync(sync::Sync),
    /// Print the configuration in force
    Config(settings::Settings),
    /// Say what is wrong at rest
    Check(check::Check),
    /// Rebuild what can be rebuilt, and remove what nobody needs
    Repair(check::Repair),
    /// Print any object of a data directory in words
    Inspect(inspect::Inspect),
}

/// Runs the command of this process and returns its exit code. Errors are printed here, once.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Serve(command) => command.run(),
        Command::Demo(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Repair(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Config(command) => command.run(),
        Command::Import(command) => block_on(command.run()),
        Command::Export(command) => block_on(command.run()),
        Command::Copy(command) => block_on(command.run()),
        Command::Snapshot(command) => command.run(),
        Command::Restore(command) => command.run(),
        Command::Query(command) => block_on(command.run()),
        Command::Bench(command) => block_on(command.run()),
        Command::Status(command) => block_on(command.run()),
        Command::Merge(command) => block_on(command.run()),
        Command::Diff(command) => block_on(command.run()),
        Command::Conflicts(command) => block_on(command.run()),
        Command::Sync(command) => block_on(command.run()),
        Command::Branch(command) => block_on(command.run()),
        Command::Branches(command) => block_on(command.run()),
        Command::History(command) => block_on(command.run()),
        Command::Tag(command) => block_on(command.run()),
        Command::Revert(command) => block_on(command.run()),
        Command::Undelete(command) => block_on(command.run()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shoal: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("  hint: {hint}");
            }
            ExitCode::from(exit_code(&error))
        }
    }
}

/// A runtime for commands that work on a data directory themselves.
fn engine_runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context(|| "start the runtime")
}

/// Carries out what asks a daemon.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    client_runtime()?.block_on(work)
}

fn client_runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context(|| "start the runtime")
}

fn exit_code(error: &Error) -> u8 {
    if error.code() == BAD_CONFIGURATION {
        return EXIT_CONFIGURATION;
    }
    if error.code() == UNKNOWN_KIND {
        return EXIT_USAGE;
    }
    match error.kind() {
        Kind::Invalid | Kind::Unsupported | Kind::Internal => 1,
        Kind::NotFound => 3,
        Kind::Conflict => 4,
        Kind::Unavailable | Kind::Busy => 5,
        Kind::Corrupt => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_wrong_configuration_exits_with_78() {
        assert_eq!(exit_code(&crate::config::wrong("x")), 78);
        assert_eq!(exit_code(&Error::not_found("x")), 3);
    }
}
