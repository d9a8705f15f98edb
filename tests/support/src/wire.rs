//! Messages of the NBD protocol as bytes, spelled out. The crate `nbd` is under test, so nothing here comes from it.

/// NBD_OPT_*.
pub const OPT_EXPORT_NAME: u32 = 1;
pub const OPT_ABORT: u32 = 2;
pub const OPT_LIST: u32 = 3;
pub const OPT_STARTTLS: u32 = 5;
pub const OPT_INFO: u32 = 6;
pub const OPT_GO: u32 = 7;
pub const OPT_STRUCTURED: u32 = 8;
pub const OPT_SET_CONTEXT: u32 = 10;
pub const OPT_EXTENDED: u32 = 11;
/// NBD_REP_*.
pub const REP_ACK: u32 = 1;
pub const REP_INFO: u32 = 3;
pub const REP_ERR_UNSUP: u32 = 1 << 31 | 1;
pub const REP_ERR_INVALID: u32 = 1 << 31 | 3;
pub const REP_ERR_TLS_REQD: u32 = 1 << 31 | 5;
/// NBD_CMD_*.
pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISC: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const CACHE: u16 = 5;
pub const ZERO: u16 = 6;
pub const STATUS: u16 = 7;
/// NBD_CMD_FLAG_*.
pub const FUA: u16 = 1;
pub const NO_HOLE: u16 = 1 << 1;
pub const PAYLOAD: u16 = 1 << 5;

/// The first 16 bytes of a server.
pub const GREETING: &[u8; 16] = b"NBDMAGICIHAVEOPT";
/// The client's flags: fixed newstyle, no zeroes.
pub const CLIENT_FLAGS: [u8; 4] = [0, 0, 0, 3];

/// An option with its data.
pub fn option(code: u32, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &code.to_be_bytes()[..], &length(data), data].concat()
}

/// The data of NBD_OPT_INFO and NBD_OPT_GO for an export, without requests for information.
pub fn export(name: &str) -> Vec<u8> {
    [&length(name.as_bytes())[..], name.as_bytes(), &[0; 2]].concat()
}

/// A reply to an option.
pub fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let magic = 0x0003_e889_0455_65a9_u64.to_be_bytes();
    [&magic[..], &option.to_be_bytes(), &kind.to_be_bytes(), &length(data), data].concat()
}

fn length(data: &[u8]) -> [u8; 4] {
    u32::try_from(data.len()).expect("short data").to_be_bytes()
}

/// A request without flags.
pub fn request(command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    request_with(0, command, cookie, offset, len)
}

/// A request with flags.
pub fn request_with(flags: u16, command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    header(0x2560_9513, [flags, command], [cookie, offset], &len.to_be_bytes())
}

/// An extended request.
pub fn extended(flags: u16, command: u16, cookie: u64, offset: u64, len: u64) -> Vec<u8> {
    header(0x21e4_1c71, [flags, command], [cookie, offset], &len.to_be_bytes())
}

fn header(magic: u32, words: [u16; 2], numbers: [u64; 2], len: &[u8]) -> Vec<u8> {
    let (words, numbers) = (words.map(u16::to_be_bytes), numbers.map(u64::to_be_bytes));
    [&magic.to_be_bytes(), words.as_flattened(), numbers.as_flattened(), len].concat()
}

/// A simple reply without its payload.
pub fn simple_reply(cookie: u64, errno: u32) -> Vec<u8> {
    [&0x6744_6698_u32.to_be_bytes()[..], &errno.to_be_bytes(), &cookie.to_be_bytes()].concat()
}
