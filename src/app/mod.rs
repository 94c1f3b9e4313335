//! Configuration, roles and their supervision, command line.

#[macro_use]
mod say;

mod addresses;
pub mod api_client;
mod authority;
mod backup;
mod board;
mod boards;
mod certificates;
mod cli;
mod client;
mod config;
mod control;
mod crash;
mod demo;
mod departure;
mod dirs;
mod doctor;
mod doors;
mod follower;
mod genesis;
mod hello;
mod identity;
pub mod join;
mod leaving;
mod logging;
mod loops;
mod master;
mod mastership;
mod member;
mod membership;
mod port;
mod qr;
mod remedy;
mod repair;
mod roll;
mod seat;
mod secrets;
mod seeking;
mod standing;
mod status;
mod token;
mod up;
mod upgrade;
pub mod version;
mod watchdog;

use std::process::ExitCode;

use clap::Parser;

use self::cli::{Cli, Command};
use self::client::Ending;
use self::dirs::Dirs;

/// Exit code of a command that failed.
const FAILED: u8 = 1;
/// Exit code of a wait that took too long. (2, usage, is the argument parser's.)
const TIMED_OUT: u8 = 3;

/// Runs the command line; must be called while the process has one thread.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start();
    match run(&cli) {
        Ok(Ending::Done) => ExitCode::SUCCESS,
        Ok(Ending::Failed) => ExitCode::from(FAILED),
        Ok(Ending::TimedOut) => ExitCode::from(TIMED_OUT),
        Err(error) => {
            eprintln!("kumquat: {error:#}{}", remedy::of(&error));
            ExitCode::from(FAILED)
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<Ending> {
    let dirs = Dirs::new(&cli.data_dir, &cli.run_dir);
    let one_thread = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match &cli.command {
        Command::Up(arguments) => up::run(&dirs, arguments),
        Command::Wait(arguments) => one_thread.block_on(client::wait(&dirs, arguments)),
        Command::Status(arguments) => one_thread.block_on(client::status(&dirs, arguments)),
        Command::Backup(command) => one_thread.block_on(backup::run(&dirs, command)),
        Command::Board(command) => one_thread.block_on(boards::run(&dirs, command)),
        Command::Secrets(command) => one_thread.block_on(secrets::run(&dirs, command)),
        Command::Token(command) => one_thread.block_on(token::run(&dirs, command)),
        Command::Kubeconfig(arguments) => one_thread.block_on(client::kubeconfig(&dirs, arguments)),
        Command::Image(command) => one_thread.block_on(client::image(&dirs, command)),
        Command::Demo(arguments) => one_thread.block_on(demo::run(arguments)),
        Command::Doctor(arguments) => one_thread.block_on(doctor::run(&dirs, arguments)),
        Command::Promote(arguments) => one_thread.block_on(client::promote(&dirs, arguments)),
        Command::Upgrade(arguments) => one_thread.block_on(upgrade::run(&dirs, arguments)),
        Command::Repair(arguments) => repair::run(&dirs, arguments).map(|()| Ending::Done),
        Command::Hello(arguments) => {
            one_thread.block_on(hello::run(arguments)).map(|()| Ending::Done)
        }
        Command::Version(arguments) => {
            version::print(arguments.output);
            Ok(Ending::Done)
        }
    }
}
