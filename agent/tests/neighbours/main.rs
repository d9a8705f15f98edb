//! Noisy neighbours: one tenant puts as much load on the agent as it can, while another must be served as if
//! it were alone.
//!
//! The noisy tenant connects over TCP (a tenant is an IPv4 address), the quiet one over a Unix socket (a
//! tenant is a uid). `disks` and `layers` have a row per plugin and filter, `rows` has exact cases that
//! occurred, `negotiate` and `status` have storms of one kind of request. `NEIGHBOURS_SEED` repeats a run,
//! `NEIGHBOURS_MS` makes each row longer.

mod disks;
mod host;
mod layers;
mod load;
mod medium;
mod negotiate;
mod noise;
mod quiet;
mod rows;
mod status;
mod work;

/// The agent, built by cargo for these tests.
const BINARY: &str = env!("CARGO_BIN_EXE_agent");
