//! QEMU's vsock devices: finds them in a running machine, adds and removes them, claims CIDs, follows the life of
//! the machine, and makes the arguments for a machine that is not started yet.
//!
//! `qmp` connects to a running QEMU, which may be hostile: whatever it sends, the client neither panics nor waits
//! without a deadline, and its memory is bounded.
//!
//! ```no_run
//! use std::path::Path;
//! use qemu::{qmp::{Client, Limits}, vsock};
//!
//! # async fn run() -> Result<(), qemu::qmp::Error> {
//! let mut client = Client::connect(Path::new("/run/vm1.qmp"), Limits::default()).await?;
//! for device in vsock::list(&mut client).await? {
//!     println!("{device}");
//! }
//! # Ok(())
//! # }
//! ```

pub mod args;
pub mod cid;
pub mod life;
pub mod qmp;
pub mod text;
pub mod vhost;
pub mod vsock;
