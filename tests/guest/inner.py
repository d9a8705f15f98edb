"""Writes a pattern to the host's second disk, reads it back, and flushes. The host compares."""

import nbd

# Neither begins nor ends on a block's boundary, and is longer than a vsock's window.
AT = 1_048_576 - 13
PATTERN = bytes(i * 7 % 251 for i in range(251)) * 4200

disk = nbd.NBD()
disk.connect_vsock(2, 10810)
print("disk of", disk.get_size(), "bytes")
for start in range(0, len(PATTERN), 300_000):
    disk.pwrite(PATTERN[start : start + 300_000], AT + start)
disk.flush()
print("read back:", "same" if disk.pread(len(PATTERN), AT) == PATTERN else "DIFFERENT")
disk.pwrite(b"\xff" * 512, disk.get_size() - 512, nbd.CMD_FLAG_FUA)
disk.shutdown()
