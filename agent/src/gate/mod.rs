//! The filters that decide who may connect, or watch who is connected. They change no disk.
//!
//! `filter` finds them by name and builds them. Each adds a gate to the stack, which `session` asks about every
//! connection before it sends a byte.

mod exitlast;
mod exitwhen;
mod ip;
mod limit;

use crate::{params::absolute, stack::Entry};

/// In the order of their names.
pub(crate) const BUILT_IN: &[Entry] = &[exitlast::ENTRY, exitwhen::ENTRY, ip::ENTRY, limit::ENTRY];
