//! One test a rule of the specification (or of issue 2), by hand-written bytes: the machines are
//! not tested against their own codec here.

mod client;
mod contexts;
mod options;
mod talk;
mod tls;
mod transcripts;
