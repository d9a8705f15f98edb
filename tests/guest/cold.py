# cold.py SOCKET EXPORT CONNECTIONS DEPTH COMMAND...: connects so many times, runs the command, which stops the disk's
# device, and asks for DEPTH blocks of 4 KiB at once on each connection, none of which is in the page cache. Creates
# /run/lab/cold.asked when all requests are sent, and waits until all of them are answered.
import subprocess
import sys

import nbd

socket, export, connections, depth = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
handles = []
for _ in range(connections):
    h = nbd.NBD()
    h.set_export_name(export)
    h.connect_unix(socket)
    handles.append(h)
with open("/proc/sys/vm/drop_caches", "w") as caches:
    caches.write("3")
subprocess.run(sys.argv[5:], check=True)
number, blocks = 0, handles[0].get_size() // 4096
for h in handles:
    for _ in range(depth):
        # Far from each other: no read is part of another's readahead.
        number += 1
        h.aio_pread(nbd.Buffer(4096), number * 7919 % blocks * 4096)
for h in handles:
    # Sends what has not been sent yet.
    h.poll(0)
open("/run/lab/cold.asked", "w").close()
for h in handles:
    while h.aio_in_flight() > 0:
        h.poll(-1)
print("all answered")
