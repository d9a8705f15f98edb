"""Rounds of writes to the host's disk, each flushed and then told; and a check of what they left.

Round N fills slot N % SLOTS with N, in several requests at the same time."""

import struct
import sys

import nbd

SLOTS, REQUESTS, LENGTH = 16, 8, 1 << 20
SLOT = REQUESTS * LENGTH


def content(number):
    return struct.pack(">Q", number) * (LENGTH // 8)


def write(disk, first, count):
    for number in range(first, first + count):
        payload = nbd.Buffer.from_bytearray(bytearray(content(number)))
        at = number % SLOTS * SLOT
        cookies = [disk.aio_pwrite(payload, at + n * LENGTH) for n in range(REQUESTS)]
        while cookies:
            disk.poll(-1)
            cookies = [cookie for cookie in cookies if not disk.aio_command_completed(cookie)]
        disk.flush()
        print("flushed", number, flush=True)


def check(disk, flushed):
    """What was told is there. Two rounds more may be, in part: the one that was told too late, and
    the one that was in the middle."""
    part = 0
    for slot in range(SLOTS):
        due = flushed - (flushed - slot) % SLOTS
        due = max(due, 0)
        after = due + SLOTS if due else slot or SLOTS
        may = {due, after} if after <= flushed + 2 else {due}
        for n in range(REQUESTS):
            found = disk.pread(LENGTH, slot * SLOT + n * LENGTH)
            if found == content(due):
                continue
            words = set(struct.unpack(f">{LENGTH // 8}Q", found))
            assert words <= may, f"slot {slot}, request {n}: {words}, may be {may}"
            part += 1
    print(f"right after {flushed} rounds; {part} requests of later ones")


disk = nbd.NBD()
disk.connect_vsock(2, 10809)
{"write": write, "check": check}[sys.argv[1]](disk, *map(int, sys.argv[2:]))
disk.shutdown()
