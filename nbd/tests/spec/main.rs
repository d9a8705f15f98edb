//! One test per rule of the specification (or of issue 2). The bytes are written by hand, so that the machines
//! are not tested against their own codec.

mod client;
mod contexts;
mod options;
mod talk;
mod tls;
mod transcripts;
