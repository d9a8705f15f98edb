# Takes the host's place among the vsock transports, as VMware Workstation does: a context of VMCI
# (drivers/misc/vmw_vmci/vmci_host.c). Says "held", and holds it until it is ended.
import fcntl
import os
import signal
import struct

VERSION2, INIT_CONTEXT = 0x7A7, 0x7A0
VERSION, CID = 0xB0000, 17

device = os.open("/dev/vmci", os.O_RDWR)
fcntl.ioctl(device, VERSION2, struct.pack("I", VERSION))
fcntl.ioctl(device, INIT_CONTEXT, bytearray(struct.pack("II", CID, 0)))
print("held", flush=True)
signal.pause()
