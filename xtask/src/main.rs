//! `cargo xtask TASK`: the tasks that a developer repeats, each as the commands that do it.
//!
//! Every command is printed before it runs, so it can be copied and changed. The tasks depend on no
//! other crate of the workspace: a workspace that does not compile can still be checked.

mod generate;
mod guest;
mod run;

#[cfg(test)]
mod security;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, ValueEnum};

use run::{Failure, cargo, program, run};

/// The project's common tasks.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", version)]
enum Task {
    /// Check the format, the lints and the documentation, as CI does before the tests
    Check,

    /// Run one test in booted guests; without a name, list the tests
    ///
    /// Needs the programs that boot guests; `./tests/run` installs them. Without KVM a test takes
    /// minutes.
    GuestTest {
        /// The test: `qmp` or `guest_qmp`, `nested`, ...
        name: Option<String>,
        /// Words for `cargo nextest run`, such as `--no-capture`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },

    /// Boot the VM host of the guest tests and run each line of the standard input in it
    Lab,

    /// Regenerate the manual pages and the shell completions of agent and guest-tools
    Generate,

    /// Build the images of the guests under target/images, and print their paths
    Images {
        /// The image
        #[arg(value_parser = ["kernel", "tiny", "host", "tools", "all"], default_value = "all")]
        image: String,
    },

    /// Run a benchmark; the machine must have nothing else to do
    Bench {
        /// The benchmark
        #[arg(value_enum, default_value_t = Bench::Server)]
        which: Bench,
        /// Words for the benchmark, such as `--quick`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

/// A benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// The agent, nbdkit, qemu-nbd and fio on the same disks (tests/bench)
    Server,
    /// The agent's vhost-user device and rust-vmm's vhost-device-vsock (tests/vsock-bench)
    Vsock,
    /// The agent and nbdkit over the kernel's vhost-vsock, in a nested guest
    Nested,
    /// guest-tools and libnbd's tools (tests/guest-tools-bench)
    GuestTools,
    /// A block device made by `guest-tools attach`, and the server without it
    Attach,
}

fn main() -> ExitCode {
    match perform(Task::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<(), Failure> {
    match task {
        Task::Check => check(),
        Task::GuestTest { name: None, .. } => guest::list(),
        Task::GuestTest { name: Some(name), words } => guest::test(&name, &words),
        Task::Lab => run(&mut cargo(["run", "--locked", "--package", "tests", "--bin", "lab"])),
        Task::Generate => generate::all(),
        Task::Images { image } => {
            run(cargo(["run", "--locked", "--package", "images", "--"]).arg(image))
        }
        Task::Bench { which, words } => bench(which, &words),
    }
}

fn check() -> Result<(), Failure> {
    run(&mut cargo(["fmt", "--all", "--check"]))?;
    run(&mut cargo([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))?;
    let mut documentation = cargo(["doc", "--workspace", "--lib", "--no-deps", "--locked"]);
    run(documentation.env("RUSTDOCFLAGS", "-D warnings"))
}

fn bench(which: Bench, words: &[String]) -> Result<(), Failure> {
    let binary = |name| cargo(["run", "--locked", "--package", "tests", "--bin", name, "--"]);
    let mut command = match which {
        Bench::Server => program("tests/bench"),
        Bench::Vsock => program("tests/vsock-bench"),
        Bench::Nested => binary("nested-bench"),
        Bench::GuestTools => program("tests/guest-tools-bench"),
        Bench::Attach => binary("attach-bench"),
    };
    run(command.args(words))
}

/// The root of this workspace.
fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_defined() {
        Task::command().debug_assert();
    }

    #[test]
    fn words_after_the_name_go_to_the_program_that_is_run() {
        let task = Task::parse_from(["xtask", "bench", "server", "--quick", "--rounds", "3"]);
        let Task::Bench { which, words } = task else { panic!("{task:?}") };
        assert_eq!((which, words.len()), (Bench::Server, 3));
    }
}
