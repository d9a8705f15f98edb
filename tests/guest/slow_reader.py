"""Connections that ask for much and do not read, beside one that reads: its rate with and without."""

import socket
import struct
import time

import nbd

SLOW, REQUESTS, LENGTH = 4, 32, 1 << 20
READS, READ = 400, 256 << 10


def rate(disk):
    begun = time.monotonic()
    for n in range(READS):
        at = n * READ % (64 << 20)
        assert disk.pread(READ, at)[:8] == struct.pack(">Q", at)
    return READS * READ / (1 << 20) / (time.monotonic() - begun)


def exactly(stream, length):
    got = bytearray()
    while len(got) < length:
        piece = stream.recv(length - len(got))
        assert piece, f"ended after {len(got)} of {length} bytes"
        got += piece
    return got


def greedy():
    """Has asked for far more than its window, and has seen the first byte come."""
    stream = socket.socket(socket.AF_VSOCK)
    stream.settimeout(60)
    stream.connect((2, 10809))
    exactly(stream, 18)
    stream.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 1, 0))
    exactly(stream, 10)
    for n in range(REQUESTS):
        stream.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, n, n * LENGTH, LENGTH))
    stream.recv(1, socket.MSG_PEEK)
    return stream


def read_at_last(stream):
    due = set(range(REQUESTS))
    while due:
        magic, error, n = struct.unpack(">IIQ", exactly(stream, 16))
        assert (magic, error) == (0x67446698, 0), (magic, error)
        due.remove(n)
        words = range(n * LENGTH, (n + 1) * LENGTH, 8)
        assert exactly(stream, LENGTH) == struct.pack(f">{len(words)}Q", *words), n


disk = nbd.NBD()
disk.connect_vsock(2, 10809)
rate(disk)
alone = rate(disk)
slow = [greedy() for _ in range(SLOW)]
beside = rate(disk)
for stream in slow:
    read_at_last(stream)
# The machine may have become slower by itself.
alone = min(alone, rate(disk))
disk.shutdown()
print(f"{alone:.0f} MiB/s alone, {beside:.0f} MiB/s beside {SLOW} that do not read")
assert beside > alone * 0.6, "the slow ones hold the fast one up"
