//! images: builds the guest and host images. The tests and the demo build them without this program; it is for
//! inspecting them.

use std::process::ExitCode;

use clap::Parser;
use human::chain;
use images::{Error, Images};

/// Build guest and host images under target/images and print their paths.
#[derive(Debug, Parser)]
#[command(version)]
struct Words {
    /// What to build: kernel, tiny, host, tools, or all.
    #[arg(value_parser = ["kernel", "tiny", "host", "tools", "all"], default_value = "all")]
    image: String,
}

fn main() -> ExitCode {
    match build(&Words::parse().image) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("images: error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn build(image: &str) -> Result<(), Error> {
    let images = Images::of_this_workspace()?;
    let wants = |name: &str| image == name || image == "all";
    if wants("kernel") {
        println!("kernel {}", images.kernel()?.release);
    }
    if wants("tiny") {
        let tiny = images.tiny()?;
        println!("tiny {} {}", tiny.kernel.display(), tiny.initramfs.display());
    }
    if wants("host") {
        let host = images.host()?;
        println!("host {} {}", host.boot.initramfs.display(), host.root.display());
    }
    if wants("tools") {
        println!("tools {}", images.tools(&[])?.display());
    }
    Ok(())
}
