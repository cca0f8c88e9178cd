#!/usr/bin/python3 -IS
"""The guest's end of dkms2bin's control channel: runs one command at a time for the host, as root.

usage: agent.py [PORT]     PORT: a virtio-serial port, or a unix socket to connect to

A message is one byte of kind, four bytes of length (big endian) and that many bytes. Zeros between messages are skipped:
the host sends them ahead of h, to fill up what an earlier connection left unfinished.
From the host, 16 KiB at most:
  h NONCE   a new session begins: whatever ran is killed; answered with the same message
  x JSON    {"sh": COMMAND} or {"python": PROGRAM}: run it; a program runs in a fork of this process, which saves the
            interpreter's start
  i BYTES   its standard input; an empty one ends it. At most 256 KiB are sent that no a has answered
  k         kill it
  w JSON    {"time", "entropy", "machineId", "nonce"}: this machine was cloned from a saved one; answered with
            w {"nonce", "machineId", "bootId", "kernel"}
To the host, 64 KiB at most: h and w as above, o BYTES and e BYTES (standard output and error), c JSON {"code": N} or
{"signal": N}, a COUNT (four bytes): the command has taken so many bytes more of its input.

Python 3.4 or newer, no module beyond the interpreter's own: every import costs emulated time.
"""
import errno
import fcntl
import json
import os
import select
import signal
import struct
import sys
import time

CHUNK = 64 * 1024
# No message is as large.
NONSENSE = 1024 * 1024
# The host hears of input that was taken in steps of this.
TAKEN_STEP = 64 * 1024
# How long output is waited for that a child of the ended command may still write.
GRACE = 0.2
RNDADDENTROPY, RNDRESEEDCRNG = 0x40085203, 0x5207


class Gone(Exception):
    """The host's end is closed."""


def unblock(fd):
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NONBLOCK)


class Agent:
    def __init__(self, path):
        self.path = path
        self.port = None
        self.socket = None
        self.received = b""
        self.pid = None
        self.status = None
        self.ended = 0
        self.outputs = {}
        self.stdin = None
        self.pending = b""
        self.taken = 0
        self.stdin_ends = False
        self.child_signal, wake = os.pipe()
        for fd in (self.child_signal, wake):
            unblock(fd)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.siginterrupt(signal.SIGCHLD, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def open(self):
        while True:
            try:
                if os.path.exists(self.path) and not self.path.startswith("/dev/"):
                    import socket
                    self.socket = socket.socket(socket.AF_UNIX)
                    self.socket.connect(self.path)
                    self.port = self.socket.fileno()
                else:
                    self.port = os.open(self.path, os.O_RDWR | os.O_NOCTTY)
                return
            except OSError:
                time.sleep(0.2)

    def send(self, kind, data=b""):
        data = kind + struct.pack(">I", len(data)) + data
        while data:
            try:
                data = data[os.write(self.port, data):]
            except BrokenPipeError:
                raise Gone()

    def strike(self):
        """Kills the running command with all its children that stayed in its group."""
        if self.pid is None or self.status is not None:
            return
        # A new child that has not come to its setsid has no group yet.
        for kill in (os.killpg, os.kill):
            try:
                kill(self.pid, signal.SIGKILL)
            except OSError:
                pass

    def kill(self):
        """Ends the running command; nothing is reported."""
        self.strike()
        if self.pid is not None and self.status is None:
            os.waitpid(self.pid, 0)
        self.forget()

    def forget(self):
        for fd in list(self.outputs) + ([self.stdin] if self.stdin is not None else []):
            os.close(fd)
        self.outputs, self.stdin, self.pending, self.taken, self.stdin_ends = {}, None, b"", 0, False
        self.pid = self.status = None

    def start(self, what):
        self.kill()
        pipes = [os.pipe() for _ in range(3)]
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                for fd, (read, write) in enumerate(pipes):
                    os.dup2(read if fd == 0 else write, fd)
                os.closerange(3, 256)
                os.chdir("/")
                with open("/proc/self/oom_score_adj", "w") as score:
                    score.write("0")
                for name in (signal.SIGPIPE, signal.SIGCHLD):
                    signal.signal(name, signal.SIG_DFL)
                signal.set_wakeup_fd(-1)
                if "python" in what:
                    exec(compile(what["python"], "program", "exec"), {"__name__": "__main__"})
                    sys.stdout.flush()
                    os._exit(0)
                os.execve("/bin/sh", ["sh", "-c", what["sh"]], {
                    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    "HOME": "/root", "LOGNAME": "root", "USER": "root", "LC_ALL": "C", "TERM": "dumb"})
            except SystemExit as end:
                sys.stdout.flush()
                if isinstance(end.code, str):
                    os.write(2, end.code.encode() + b"\n")
                os._exit(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)
            except BaseException as error:
                os.write(2, ("%s: %s\n" % (type(error).__name__, error)).encode())
            os._exit(1)
        self.pid, self.status = pid, None
        (child_in, self.stdin), (out, child_out), (err, child_err) = pipes
        for fd in (child_in, child_out, child_err):
            os.close(fd)
        unblock(self.stdin)
        self.outputs = {out: b"o", err: b"e"}

    def feed(self):
        """Hands pending input to the command as far as it takes it."""
        if self.stdin is None:
            self.pending = b""
            return
        try:
            while self.pending:
                count = os.write(self.stdin, self.pending)
                self.pending = self.pending[count:]
                self.taken += count
                if self.taken >= TAKEN_STEP:
                    count, self.taken = self.taken, 0
                    self.send(b"a", struct.pack(">I", count))
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return
            if error.errno != errno.EPIPE:
                raise
            # It does not read its input: that is its own affair.
            self.pending, self.stdin_ends = b"", True
        if self.stdin_ends:
            os.close(self.stdin)
            self.stdin = None

    def wake(self, told):
        time.clock_settime(time.CLOCK_REALTIME, told["time"])
        import binascii
        entropy = binascii.a2b_base64(told["entropy"])
        with open("/dev/random", "wb", buffering=0) as random:
            fcntl.ioctl(random, RNDADDENTROPY, struct.pack("ii", 8 * len(entropy), len(entropy)) + entropy)
            try:
                fcntl.ioctl(random, RNDRESEEDCRNG)
            except OSError:
                pass  # Linux before 4.17 reseeds by itself, later.
        for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "w") as file:
                    file.write(told["machineId"] + "\n")
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        answer = {"nonce": told["nonce"], "machineId": told["machineId"], "bootId": boot, "kernel": os.uname().release}
        self.send(b"w", json.dumps(answer).encode())

    def handle(self, kind, data):
        if kind in (b"x", b"w"):
            try:
                told = json.loads(data.decode())
            except ValueError:
                return  # Its rest went down with an earlier connection.
        if kind == b"h":
            self.kill()
            self.send(b"h", data)
        elif kind == b"x":
            self.start(told)
        elif kind == b"i":
            if data:
                self.pending += data
            else:
                self.stdin_ends = True
            self.feed()
        elif kind == b"k":
            self.strike()
        elif kind == b"w":
            self.wake(told)

    def read_port(self):
        data = os.read(self.port, CHUNK)
        if not data:
            raise Gone()
        self.received += data
        while True:
            if self.received[:1] == b"\0":
                self.received = self.received.lstrip(b"\0")
            if len(self.received) < 5:
                break
            size = struct.unpack(">I", self.received[1:5])[0]
            if size > NONSENSE:
                # The rest of a message whose beginning went to an agent that is no more.
                self.received = b""
                break
            if len(self.received) < 5 + size:
                break
            kind, message = self.received[:1], self.received[5:5 + size]
            self.received = self.received[5 + size:]
            self.handle(kind, message)

    def read_output(self, fd):
        data = os.read(fd, CHUNK)
        if data:
            self.send(self.outputs[fd], data)
        else:
            os.close(fd)
            del self.outputs[fd]

    def reap(self):
        if self.pid is None or self.status is not None:
            return
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.status, self.ended = status, time.monotonic()

    def serve(self):
        """Until the host goes."""
        while True:
            poll = select.poll()
            poll.register(self.port, select.POLLIN)
            poll.register(self.child_signal, select.POLLIN)
            for fd in self.outputs:
                poll.register(fd, select.POLLIN)
            if self.stdin is not None and self.pending:
                poll.register(self.stdin, select.POLLOUT)
            try:
                events = dict(poll.poll(50 if self.status is not None else None))
            except InterruptedError:
                continue  # Python 3.4, when a child has ended.
            if self.child_signal in events:
                os.read(self.child_signal, 512)
            self.reap()
            for fd in list(self.outputs):
                if fd in events:
                    self.read_output(fd)
            if self.stdin in events:
                self.feed()
            state = events.get(self.port, 0)
            if state & select.POLLIN:
                self.read_port()
            elif state & (select.POLLHUP | select.POLLERR):
                raise Gone()
            if self.status is not None and (not self.outputs or time.monotonic() - self.ended > GRACE):
                status = self.status
                self.forget()
                end = {"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else {"code": os.WEXITSTATUS(status)}
                self.send(b"c", json.dumps(end).encode())

    def run(self):
        self.open()
        while True:
            try:
                self.serve()
            except Gone:
                self.kill()
                self.received = b""
                if self.socket is not None:
                    return
                # The port stays open: the host comes back.
                time.sleep(0.1)


Agent(sys.argv[1] if len(sys.argv) > 1 else "/dev/virtio-ports/dkms2bin.0").run()
