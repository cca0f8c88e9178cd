"""Stands for QEMU between a guest's port and the host's socket: usage: port.py PORT SOCKET. The port is a terminal, PORT a link to it."""
import os
import pty
import select
import socket
import sys
import tty

master, slave = pty.openpty()
tty.setraw(slave)
os.symlink(os.ttyname(slave), sys.argv[1])
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[2])
server.listen(1)
print("ready", flush=True)
host, _ = server.accept()
while True:
    ready, _, _ = select.select([host, master], [], [])
    if host in ready:
        data = host.recv(4096)
        if not data:
            break
        while data:
            data = data[os.write(master, data):]
    if master in ready:
        host.sendall(os.read(master, 4096))
