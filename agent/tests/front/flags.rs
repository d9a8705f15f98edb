//! The layers that change a disk's abilities: clients see the same as with nbdkit.

use support::{agent::NBDKIT, process::printed_by_client};

use crate::BINARY;

/// Everything that libnbd reports about an export, and the results of requests that are not
/// advertised.
const CLIENT: &str = r#"/usr/bin/python3 -c '
import nbd, sys
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.set_strict_mode(0)
h.connect_uri(sys.argv[1])
print("fua", h.can_fua(), "flush", h.can_flush(), "zero", h.can_zero(),
      "fast", h.can_fast_zero(), "cache", h.can_cache(), "multi", h.can_multi_conn(),
      "trim", h.can_trim(), "ro", h.is_read_only(), "size", h.get_size())
def tried(name, act):
    try:
        act()
        print(name, "done")
    except nbd.Error as error:
        print(name, error.errno)
tried("write", lambda: h.pwrite(b"x" * 70000, 100))
tried("flush", h.flush)
tried("cache", lambda: h.cache(4096, 0))
tried("zero", lambda: h.zero(65536, 4096))
tried("trim", lambda: h.trim(65536, 131072))
print(h.pread(12, 4090), h.pread(12, 69632), h.pread(12, 70096))
extents = []
if h.can_meta_context("base:allocation"):
    h.block_status(h.get_size(), 0, lambda *a: extents.extend(a[2]) and 0)
print("holes", any(flags & 1 for flags in extents[1::2]))
h.shutdown()
' "$uri""#;

fn seen(server: &str, words: &str) -> String {
    printed_by_client(server, &words.split_whitespace().collect::<Vec<_>>(), CLIENT)
}

#[test]
fn clients_see_what_they_see_with_nbdkit() {
    for words in [
        "--filter=fua memory 1M",
        "--filter=fua memory 1M fuamode=emulate",
        "--filter=fua memory 1M fuamode=native",
        "--filter=fua memory 1M fuamode=force",
        "--filter=fua memory 1M fuamode=pass",
        "--filter=fua memory 1M fuamode=discard",
        "--filter=noextents memory 1M",
        "--filter=nocache memory 1M",
        "--filter=nocache memory 1M cachemode=none",
        "--filter=nocache memory 1M cachemode=emulate",
        "--filter=nocache memory 1M cachemode=nop",
        "--filter=nozero memory 1M",
        "--filter=nozero memory 1M zeromode=none fastzeromode=none",
        "--filter=nozero memory 1M zeromode=emulate",
        "--filter=nozero memory 1M zeromode=emulate fastzeromode=none",
        "--filter=nozero memory 1M zeromode=emulate fastzeromode=ignore",
        "--filter=nozero memory 1M zeromode=notrim",
        "--filter=nozero memory 1M zeromode=notrim fastzeromode=slow",
        "--filter=nozero memory 1M zeromode=plugin",
        "--filter=nozero memory 1M zeromode=plugin fastzeromode=none",
        "--filter=multi-conn memory 1M",
        "--filter=multi-conn memory 1M multi-conn-mode=emulate",
        "--filter=multi-conn memory 1M multi-conn-mode=disable",
        "--filter=multi-conn memory 1M multi-conn-mode=plugin",
        "--filter=multi-conn memory 1M multi-conn-mode=unsafe multi-conn-track-dirty=off",
        "--filter=multi-conn memory 1M multi-conn-track-dirty=fast multi-conn-exportname=true",
    ] {
        assert_eq!(seen(BINARY, words), seen(NBDKIT, words), "{words}");
    }
}
