"""Connects to the host's disk and closes again, so many times a second for so many seconds.

One connection stays meanwhile and reads. The last word is how many they were a second."""

import os
import socket
import struct
import sys
import time

RATE, SECONDS = int(sys.argv[1]), int(sys.argv[2])
WORKERS = 2
HOST = (2, 10809)


def connect():
    disk = socket.socket(socket.AF_VSOCK)
    disk.settimeout(10)
    disk.connect(HOST)
    return disk


def exactly(disk, length):
    got = b""
    while len(got) < length:
        piece = disk.recv(length - len(got))
        if not piece:
            raise ConnectionError(f"ended after {len(got)} of {length} bytes")
        got += piece
    return got


def greeted():
    disk = connect()
    assert exactly(disk, 18).startswith(b"NBDMAGICIHAVEOPT")
    return disk


def opened():
    """NBD_OPT_EXPORT_NAME with the default export, no zeroes behind the answer."""
    disk = greeted()
    disk.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 1, 0))
    exactly(disk, 10)
    return disk


def asked():
    """With a read under way, longer than the socket's window."""
    disk = opened()
    disk.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 1, 0, 1 << 20))
    return disk


def half_closed():
    disk = connect()
    disk.shutdown(socket.SHUT_WR)
    return disk


def done():
    """Says so, and that it sends no more: what comes then is the end, and no error."""
    disk = opened()
    disk.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 2, 0, 0, 0))
    disk.shutdown(socket.SHUT_WR)
    assert disk.recv(1) == b""
    return disk


KINDS = (connect, greeted, opened, asked, half_closed, done)


def work(begun, first):
    """Every WORKERS-th connect."""
    for n in range(first, RATE * SECONDS, WORKERS):
        # The pace; whoever is late goes on at once.
        time.sleep(max(0, begun + n / RATE - time.monotonic()))
        KINDS[n % len(KINDS)]().close()


begun = time.monotonic()
workers = []
for first in range(WORKERS):
    worker = os.fork()
    if worker == 0:
        work(begun, first)
        os._exit(0)
    workers.append(worker)
steady = opened()
while workers:
    for n in range(64):
        steady.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, n, n * 4096, 8))
        assert exactly(steady, 24) == struct.pack(">IIQQ", 0x67446698, 0, n, n * 4096)
    time.sleep(0.1)
    worker, status = os.waitpid(-1, os.WNOHANG)
    if worker:
        assert status == 0, "a connect failed"
        workers.remove(worker)
took = time.monotonic() - begun
steady.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 2, 0, 0, 0))
print(f"{RATE * SECONDS} connects in {took:.1f} s; a second: {RATE * SECONDS / took:.0f}")
