use proptest::prelude::*;

use super::*;
use crate::{AgreedContext, BlockSizes};

const SIZE: u64 = 1 << 30;

fn terms() -> Terms {
    Terms {
        size: SIZE,
        flags: TransmissionFlags::all() - TransmissionFlags::READ_ONLY,
        framing: Framing::Structured,
        contexts: vec![AgreedContext::new(1, "base:allocation")],
        blocks: BlockSizes::default(),
        unit: 1,
    }
}

fn request(command: Command, flags: CommandFlags, offset: u64, len: u64) -> Request {
    Request { flags, command, cookie: 0, offset, len }
}

fn errno(terms: &Terms, request: &Request) -> Errno {
    check(terms, request).map_or_else(|refused| refused.errno, |_| Errno(0))
}

const NONE: CommandFlags = CommandFlags::empty();

#[test]
fn each_command_past_the_end_has_its_own_error() {
    for (command, expected) in [
        (Command::READ, Errno::EINVAL),
        (Command::WRITE, Errno::ENOSPC),
        (Command::WRITE_ZEROES, Errno::ENOSPC),
        (Command::TRIM, Errno::EINVAL),
        (Command::CACHE, Errno::EINVAL),
        (Command::BLOCK_STATUS, Errno::EINVAL),
    ] {
        for (offset, len) in [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 1), (1, u64::MAX), (0, SIZE + 1)]
        {
            let request = request(command, NONE, offset, len);
            assert_eq!(errno(&terms(), &request), expected, "{request:?}");
        }
        let last = request(command, NONE, SIZE - 1, 1);
        assert!(check(&terms(), &last).is_ok(), "{last:?}");
    }
}

#[test]
fn an_unknown_command_and_an_unknown_flag_are_einval() {
    assert_eq!(errno(&terms(), &request(Command(99), NONE, 0, 0)), Errno::EINVAL);
    assert_eq!(errno(&terms(), &request(Command::RESIZE, NONE, 0, 0)), Errno::EINVAL);
    for bit in 0..16 {
        let flag = CommandFlags::from_bits_retain(1 << bit);
        for (command, allowed) in [
            (Command::READ, CommandFlags::FUA | CommandFlags::DF),
            (Command::WRITE, CommandFlags::FUA),
            (Command::TRIM, CommandFlags::FUA),
            (Command::CACHE, CommandFlags::FUA),
            (Command::BLOCK_STATUS, CommandFlags::FUA | CommandFlags::REQ_ONE),
            (
                Command::WRITE_ZEROES,
                CommandFlags::FUA | CommandFlags::NO_HOLE | CommandFlags::FAST_ZERO,
            ),
        ] {
            let expected = if allowed.contains(flag) { Errno(0) } else { Errno::EINVAL };
            assert_eq!(
                errno(&terms(), &request(command, flag, 0, 512)),
                expected,
                "{command} {bit}"
            );
        }
    }
}

#[test]
fn a_command_or_flag_that_was_not_offered_is_refused() {
    let bare = Terms {
        flags: TransmissionFlags::HAS_FLAGS,
        framing: Framing::Simple,
        contexts: Vec::new(),
        ..terms()
    };
    for command in [
        Command::FLUSH,
        Command::TRIM,
        Command::WRITE_ZEROES,
        Command::CACHE,
        Command::BLOCK_STATUS,
    ] {
        let len = if command == Command::FLUSH { 0 } else { 512 };
        assert_eq!(errno(&bare, &request(command, NONE, 0, len)), Errno::EINVAL, "{command}");
    }
    assert_eq!(errno(&bare, &request(Command::READ, CommandFlags::DF, 0, 512)), Errno::EINVAL);
    assert_eq!(errno(&bare, &request(Command::WRITE, CommandFlags::FUA, 0, 512)), Errno::EINVAL);
    assert_eq!(errno(&bare, &request(Command::READ, NONE, 0, 512)), Errno(0));
}

#[test]
fn a_read_only_export_refuses_every_change_with_eperm() {
    let terms = Terms { flags: terms().flags | TransmissionFlags::READ_ONLY, ..terms() };
    for command in [Command::WRITE, Command::TRIM, Command::WRITE_ZEROES] {
        assert_eq!(errno(&terms, &request(command, NONE, 0, 512)), Errno::EPERM);
    }
    assert_eq!(errno(&terms, &request(Command::READ, NONE, 0, 512)), Errno(0));
    assert_eq!(errno(&terms, &request(Command::FLUSH, NONE, 0, 0)), Errno(0));
}

#[test]
fn reads_and_writes_over_64_mib_are_refused_and_long_ranges_are_not() {
    let (max, over) = (u64::from(MAX_PAYLOAD), u64::from(MAX_PAYLOAD) + 1);
    let terms = terms();
    assert_eq!(errno(&terms, &request(Command::READ, NONE, 0, max)), Errno(0));
    assert_eq!(errno(&terms, &request(Command::READ, NONE, 0, over)), Errno::EINVAL);
    assert_eq!(errno(&terms, &request(Command::READ, CommandFlags::DF, 0, over)), Errno::EOVERFLOW);
    assert_eq!(errno(&terms, &request(Command::WRITE, NONE, 0, max)), Errno(0));
    assert_eq!(errno(&terms, &request(Command::WRITE, NONE, 0, over)), Errno::EINVAL);
    for command in [Command::TRIM, Command::WRITE_ZEROES, Command::CACHE, Command::BLOCK_STATUS] {
        assert_eq!(errno(&terms, &request(command, NONE, 0, SIZE)), Errno(0));
    }
}

#[test]
fn a_payload_follows_a_write_and_an_extended_request_with_the_flag() {
    let simple = terms();
    let extended = Terms { framing: Framing::Extended, ..terms() };
    let write = request(Command::WRITE, NONE, 0, 10);
    let odd = request(Command::TRIM, CommandFlags::PAYLOAD_LEN, 0, 10);
    assert_eq!(payload_len(&simple, &write), Ok(10));
    assert_eq!(payload_len(&simple, &odd), Ok(0));
    assert_eq!(payload_len(&extended, &odd), Ok(10));
    assert_eq!(errno(&extended, &odd), Errno::EINVAL, "skipped, then refused");
    assert!(payload_len(&extended, &request(Command::WRITE, NONE, 0, 1 << 40)).is_err());
    let write = request(Command::WRITE, CommandFlags::PAYLOAD_LEN, 0, 10);
    assert_eq!(errno(&extended, &write), Errno(0));
}

#[test]
fn requests_have_to_be_multiples_of_the_block_size() {
    let terms = Terms { unit: 512, ..terms() };
    assert_eq!(errno(&terms, &request(Command::READ, NONE, 512, 512)), Errno(0));
    assert_eq!(errno(&terms, &request(Command::READ, NONE, 1, 512)), Errno::EINVAL);
    assert_eq!(errno(&terms, &request(Command::READ, NONE, 0, 511)), Errno::EINVAL);
}

#[test]
fn a_flush_has_no_range_and_a_block_status_has_one() {
    assert_eq!(errno(&terms(), &request(Command::FLUSH, NONE, 1, 0)), Errno::EINVAL);
    assert_eq!(errno(&terms(), &request(Command::FLUSH, NONE, 0, 1)), Errno::EINVAL);
    assert_eq!(errno(&terms(), &request(Command::BLOCK_STATUS, NONE, 0, 0)), Errno::EINVAL);
}

proptest! {
    #[test]
    fn a_request_that_passes_lies_within_the_export(
        command in 0u16..10, flags: u16, offset: u64, len: u64, size: u64,
    ) {
        let terms = Terms { size, ..terms() };
        let flags = CommandFlags::from_bits_retain(flags);
        let range = match check(&terms, &request(Command(command), flags, offset, len)) {
            Ok(Checked::Read { at, len, .. } | Checked::Write { at, len, .. }) => {
                (at, u64::from(len))
            }
            Ok(
                Checked::Trim { at, len, .. }
                | Checked::Zero { at, len, .. }
                | Checked::Cache { at, len }
                | Checked::Extents { at, len, .. },
            ) => (at, len),
            _ => (0, 0),
        };
        prop_assert!(range.0.checked_add(range.1).is_some_and(|end| end <= size));
    }
}
