"""What verify.py and prove.py have in common. The host sends the variables, exit-codes.sh, this, and the program, as one text.

Variable: RELEASE. Result lines, @@dkms2bin KEY VALUE:
  load NAME loaded                         in the kernel, and out again
  load NAME refused REASON                 the kernel took it, but its init function refuses: no device, or it wants parameters
  load NAME bad REASON                     does not load, or the kernel complains
  unload NAME busy REASON                  loaded, but does not leave; no fault by itself
  error TEXT

Python and not shell: every process that starts costs 50 to 150 ms under emulation, and this one is a fork of the agent.
"""
import errno
import glob
import os
import re
import shutil
import sys

WORK = "/var/tmp/dkms2bin-prove"
TREE = "/lib/modules/%s" % RELEASE
ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C",
       "DEBIAN_FRONTEND": "noninteractive"}
COMPLAINT = re.compile("BUG:|kernel BUG at|Oops|general protection fault|WARNING: CPU|WARNING: .* at |Call Trace:|"
                       "Kernel panic|Internal error|Unable to handle kernel")
# What the kernel says of every module that is not its own: no reason for anything.
USUAL = re.compile("taints kernel|taint(ing|ed)|module verification failed")
FREE_LICENCES = ("GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL")
PROPRIETARY, OUT_OF_TREE, UNSIGNED = 1 << 0, 1 << 12, 1 << 13


def say(key, text):
    print("@@dkms2bin %s %s" % (key, " ".join(text.split())[:2000]), flush=True)


def show(text):
    for line in text.splitlines():
        print(" " + line if line.startswith("@@dkms2bin") else line, flush=True)


def fail(code, text):
    say("error", text)
    sys.exit(code)


def run(*command):
    """Exit code and output of a command. The output goes through a file: what the command leaves running may hold a pipe open."""
    path = WORK + "/output"
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.execvpe(command[0], command, ENV)
        except BaseException as error:
            os.write(2, ("%s: %s\n" % (command[0], error)).encode())
        os._exit(127)
    status = os.waitpid(pid, 0)[1]
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read()
    return (os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)), text


def first(pattern, text, default=""):
    return next((line for line in text.splitlines() if re.search(pattern, line)), default)


class KernelLog:
    def __init__(self):
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.fd, 0, os.SEEK_END)

    def news(self):
        """What the kernel has said since it was asked last."""
        lines = []
        while True:
            try:
                record = os.read(self.fd, 8192).decode("utf-8", "replace")
            except OSError as error:
                if error.errno == errno.EPIPE:  # Some records were overwritten before they were read.
                    continue
                if error.errno != errno.EAGAIN:
                    raise
                return "\n".join(lines)
            lines.append(record.split(";", 1)[-1].split("\n")[0])


def taint():
    with open("/proc/sys/kernel/tainted") as file:
        return int(file.read())


def internal(name):
    return name.replace("-", "_")


def files_of(packages):
    """Paths of the modules that installed packages own."""
    lines = []
    for package in packages:
        lists = glob.glob("/var/lib/dpkg/info/%s.list" % package)
        for path in lists:
            with open(path) as file:
                lines += file.read().splitlines()
        if not lists:
            lines += run("rpm", "-ql", package)[1].splitlines()
    return set(re.sub("^/usr/lib/", "/lib/", line) for line in lines if re.search(r"\.ko(\.(xz|zst|gz))?$", line))


def watch(module):
    """Loads a module that does not load once more: (whether the kernel takes it, so that it is its init function that fails;
    whether the kernel asks for other modules meanwhile, which is taken for granted where it cannot be traced)."""
    tracing = "/sys/kernel/tracing"
    if not os.path.exists(tracing + "/trace"):
        run("mount", "-t", "tracefs", "tracefs", tracing)
    events = tracing + "/events/module/%s/enable"
    if not os.path.exists(events % "module_request"):
        return False, True

    def switch(value):
        for event in ("module_load", "module_request"):
            with open(events % event, "w") as file:
                file.write(value)

    # An empty trace: the one before this may have been of another module.
    open(tracing + "/trace", "w").close()
    switch("1")
    run("modprobe", module)
    switch("0")
    with open(tracing + "/trace") as file:
        seen = file.read()
    # The kernel traces a module once its symbols, relocations and parameters are in order, right before its init function.
    taken = re.search(r"(?m)module_load: %s( |$)" % re.escape(internal(module)), seen)
    return taken is not None, "module_request: " in seen


def load(module, files, log, retry):
    """Loads a module and takes it out again: 'loaded', 'refused REASON' or 'bad REASON'. `retry` is asked to bring back modules of
    the kernel that a module which does not load may have missed; it answers False if none were away."""
    code, info = run("modinfo", "-k", RELEASE, module)
    if code != 0:
        return "bad modinfo does not find it: %s" % info

    def field(name):
        return first("^%s:" % name, info).partition(":")[2].strip()

    vermagic, path = field("vermagic"), field("filename")
    if not vermagic.startswith(RELEASE + " "):
        return "bad its vermagic is '%s', the kernel is %s" % (vermagic, RELEASE)
    if re.sub("^/usr/lib/", "/lib/", path) not in files:
        return "bad modprobe would take %s, which is not the package's file" % path
    if os.path.isdir("/sys/module/" + internal(module)):
        # Already in: udev loaded it at installation, or the kernel has one of the same name built in.
        run("modprobe", "-r", module)
        if os.path.isdir("/sys/module/" + internal(module)):
            return "bad a module of this name is in the kernel already and does not leave"
    before = taint()
    log.news()
    code, said = run("modprobe", "-v", module)
    kernel = log.news()
    taken = False
    if code != 0:
        taken, asks = watch(module)
        missed = asks or field("softdep") or "Unknown symbol" in kernel
        if missed and retry():
            code, said = run("modprobe", "-v", module)
            kernel += "\n" + log.news()
            if code != 0:
                taken, _ = watch(module)
    show(said)
    show(kernel)
    complaint = first(COMPLAINT.pattern, kernel)
    if complaint:
        return "bad the kernel complains: %s" % complaint
    # Out of tree and unsigned are what such a module is; proprietary only if its licence says so.
    allowed = OUT_OF_TREE | UNSIGNED | (0 if field("license") in FREE_LICENCES else PROPRIETARY)
    new = taint() & ~before
    if new & ~allowed:
        return "bad loading taints the kernel: %d (allowed %d)" % (new, allowed)
    if code != 0:
        reasons = [line for line in kernel.splitlines() if not USUAL.search(line)]
        reason = first("(?i)%s|%s" % (re.escape(internal(module)), re.escape(module)), "\n".join(reasons))
        # Of a module that it does not trust, the kernel says no name.
        reason = reason or first("(?i)loading of .* is rejected", "\n".join(reasons))
        if "No such device" in said:
            return "refused %s" % (reason or "No such device")
        parameters = re.findall(r"(?m)^parm: *(\w+):", info)
        if "Invalid argument" in said and parameters and taken:
            return "refused it wants parameters (%s)%s" % (", ".join(parameters), ": %s" % reason if reason else "")
        why = first("ERROR|FATAL|could not", said) or "modprobe ended with %d" % code
        return "bad %s%s" % (why, " (%s)" % reason if reason else "")
    if not os.path.isdir("/sys/module/" + internal(module)):
        return "bad modprobe succeeded, but there is no /sys/module/%s" % internal(module)
    code, said = run("modprobe", "-r", module)
    if code != 0:
        say("unload", "%s busy %s" % (module, said))
    return "loaded"


def load_all(modules, files, retry=lambda: False):
    """Loads each and says so: `load NAME …`. The exit code: E_BAD when one is bad."""
    log = KernelLog()
    status = E_DONE
    for module in modules:
        how = load(module, files, log, retry)
        say("load", "%s %s" % (module, how))
        if how.startswith("bad"):
            status = E_BAD
    return status


def main(program, at_end=lambda: None):
    shutil.rmtree(WORK, ignore_errors=True)
    os.makedirs(WORK)
    try:
        running = os.uname().release
        if running != RELEASE:
            fail(E_OTHER_KERNEL, "the guest runs %s, not %s" % (running, RELEASE))
        status = program()
    finally:
        at_end()
        shutil.rmtree(WORK, ignore_errors=True)
    sys.exit(status)
