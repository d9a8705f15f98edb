# cold.py SOCKET EXPORT CONNECTIONS DEPTH: asks for so many 4 KiB blocks at once on each connection, says so by
# /run/lab/cold.asked, and waits until all of them are answered.
import sys

import nbd

socket, export, connections, depth = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
handles, number = [], 0
for _ in range(connections):
    h = nbd.NBD()
    h.set_export_name(export)
    h.connect_unix(socket)
    size = h.get_size() // 4096
    for _ in range(depth):
        # Far from each other: no read is part of another's readahead.
        number += 1
        h.aio_pread(nbd.Buffer(4096), number * 7919 % size * 4096)
    handles.append(h)
for h in handles:
    # What fits into the socket has been sent.
    h.poll(0)
open("/run/lab/cold.asked", "w").close()
for h in handles:
    while h.aio_in_flight() > 0:
        h.poll(-1)
print("all answered")
