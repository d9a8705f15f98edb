"""qmp.py SOCKET COMMAND...: has QEMU do these commands, each without arguments."""

import json
import socket
import sys

qemu = socket.socket(socket.AF_UNIX)
qemu.connect(sys.argv[1])
lines = qemu.makefile("rw")
lines.readline()
for command in ["qmp_capabilities", *sys.argv[2:]]:
    print(json.dumps({"execute": command}), file=lines, flush=True)
    answer = {"event": ""}
    while "event" in answer:
        answer = json.loads(lines.readline())
    if "error" in answer:
        sys.exit(f"{command}: {answer['error']['desc']}")
