//! Values as people write and read them: sizes, times, and an error with its causes. Both programs
//! parse their command lines and print their errors with this crate, so that they accept and print
//! the same forms.
//!
//! Sizes and times have nbdkit's syntax. That of humansize and humantime differs: there `1k` is
//! 1000 bytes, and a time needs a unit.

mod causes;
mod duration;
mod size;

pub use self::{
    causes::{Chain, chain},
    duration::{DurationError, parse_duration},
    size::{SIZE_MAX, SizeError, exact_size, parse_size, print_size},
};
