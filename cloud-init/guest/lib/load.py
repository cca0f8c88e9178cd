"""What verify.py, prove.py and upgrade.py have in common. The host sends the variables, exit-codes.sh, this, and the program, as one text.

Variables: RELEASE, HANG (seconds that an init or exit function may take). Result lines, @@dkms2bin KEY VALUE:
  doing load NAME, doing unload NAME       before each: when the machine does not survive it, the host knows what it was
  load NAME loaded                         in the kernel, and out again
  load NAME refused ERRNO REASON           the kernel took it, but its init function returned this errno
  load NAME bad REASON                     the kernel does not take it, or it does not leave the kernel
  load NAME broke REASON                   oops or hang: the kernel is not to be trusted any more, and the program ends here
  warn NAME TEXT                           what the kernel itself complained of meanwhile
  stays NAME REASON                        it is loaded, and meant to stay
  progress                                 every few seconds, while bytes come in, a processor is at work, or a module has its time
  error TEXT

Python and not shell: every process that starts costs 50 to 150 ms under emulation, and this one is a fork of the agent.
"""
import errno
import glob
import os
import re
import shutil
import signal
import sys
import time

WORK = "/var/tmp/dkms2bin-prove"
TREE = "/lib/modules/%s" % RELEASE
ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C",
       "DEBIAN_FRONTEND": "noninteractive"}
# What the kernel says of every module that is not its own: no reason for anything.
USUAL = re.compile("taints kernel|taint(ing|ed)|module verification failed")
FREE_LICENCES = ("GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL")
PROPRIETARY, DIE, WARN, OUT_OF_TREE, UNSIGNED = 1 << 0, 1 << 7, 1 << 9, 1 << 12, 1 << 13
# Documentation/admin-guide/tainted-kernels.rst
TAINTS = {1: "F, a module was loaded by force", 4: "M, a machine check", 5: "B, a bad page", 9: "W, a warning", 10: "C, a staging driver",
          14: "L, a soft lockup", 15: "K, a live patch", 18: "N, a test"}
# A kernel that has died says one of these.
DEATH = "BUG: |kernel BUG at|Oops|general protection fault|Internal error|Unable to handle|invalid opcode|divide error|stack segment"
# What no box is drawn around. A driver's own words are none of these.
COMPLAINT = re.compile(r"BUG: (sleeping function called from invalid context at \S+:\d|scheduling while atomic: |Bad (page|rss-counter) |"
                       r"workqueue leaked |using \S+ in preemptible|(spinlock|rwlock) )")
BEAT, SETTLE = 5, 2


def out(text):
    global speaking
    speaking = True
    print(text, flush=True)
    speaking = False


def say(key, text=""):
    # The host's word for this run: see common.sh.
    nonce = globals().get("NONCE", "")
    out("@@dkms2bin%s %s %s" % (nonce and ":" + nonce, key, " ".join(text.split())[:2000]))


def show(text):
    for line in text.splitlines():
        out(" " + line if line.startswith("@@dkms2bin") else line)


def fail(code, text):
    say("error", text)
    sys.exit(code)


class Late(Exception):
    pass


speaking, until = False, None


was_bytes = was_busy = 0


def at_work():
    """Whether, since the last look, bytes have come in or a fifth of a processor's time was taken: see watch_progress in common.sh."""
    global was_bytes, was_busy
    with open("/proc/net/dev") as file:
        cards = [line.split(":") for line in file if ":" in line]
    received = sum(int(rest.split()[0]) for name, rest in cards if name.strip() != "lo")
    with open("/proc/stat") as file:
        busy = sum(int(each) for each in file.readline().split()[1:4])
    works = received - was_bytes > 5000 or busy - was_busy > 20 * BEAT
    was_bytes, was_busy = received, busy
    return works


def beat(*_):
    # What has a limit of its own is not given up by its silence.
    if not speaking and (until is not None or at_work()):
        say("progress")
    if until is not None and time.monotonic() > until:
        raise Late()


def run(*command, limit=None):
    """Exit code and output of a command; the code is None when it has not ended after `limit` seconds, with where it is. The output
    goes through a file: what the command leaves running may hold a pipe open."""
    global until
    path = WORK + "/output"
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            to = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(to, 1)
            os.dup2(to, 2)
            os.execvpe(command[0], command, ENV)
        except BaseException as error:
            os.write(2, ("%s: %s\n" % (command[0], error)).encode())
        os._exit(127)
    until = limit and time.monotonic() + limit
    try:
        while True:
            try:
                status = os.waitpid(pid, 0)[1]
                break
            except InterruptedError:  # Python 3.4
                pass
    except Late:
        return None, where(pid)
    finally:
        until = None
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read()
    return (os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)), text


def where(pid):
    """In which functions of the kernel a process is."""
    try:
        with open("/proc/%d/stack" % pid) as file:
            return " < ".join(re.findall(r"(?m)\] (\S+)\+0x", file.read())[:4])
    except OSError:
        return ""


def first(pattern, text, default=""):
    return next((line for line in text.splitlines() if re.search(pattern, line)), default)


class KernelLog:
    """From now on: udev may load a module as soon as it is installed. `early` is what is said before any is loaded here."""
    def __init__(self):
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.fd, 0, os.SEEK_END)
        self.taint, self.death, self.early = taint(), "", ""

    def news(self):
        """What the kernel has said since it was asked last. What programs write into its log has another facility."""
        text = self.records()
        self.death = self.death or first(DEATH, text)
        return text

    def new_taint(self):
        new = taint() & ~self.taint
        self.taint |= new
        return new

    def require_life(self, code, when):
        """What the kernel has said since it was asked last. Ends the program when it has died and no module was seen to do it: that is
        the fault of all together."""
        text = self.news()
        show(text)
        if self.new_taint() & DIE:
            fail(code, "the kernel died %s: %s" % (when, self.death or "an oops"))
        return text

    def records(self):
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
            prefix, _, text = record.partition(";")
            if int(prefix.split(",")[0]) >> 3 == 0:
                lines.append(text.split("\n")[0])


def complaints(text):
    """What the kernel's own warnings are about: the head of what follows "cut here" or a line of equal signs, and some that stand alone.
    The words of a WARN may come before its head."""
    found, boxed = [], 0
    for line in text.splitlines():
        boxed -= 1
        if (boxed > 0 and re.match("WARNING: |kernel BUG at |BUG: |UBSAN: |INFO: ", line)) or COMPLAINT.match(line):
            found.append(line)
            boxed = 0
        if re.match(r"-+\[ cut here \]-+$|={20,}$", line):
            boxed = 5
    return found


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


class Trace:
    """The kernel's own record of what it does with modules."""
    EVENTS = ("module/module_load", "module/module_request", "initcall/initcall_finish")

    def __init__(self):
        self.dir = "/sys/kernel/tracing"
        if not os.path.exists(self.dir + "/trace"):
            run("mount", "-t", "tracefs", "tracefs", self.dir)
        self.there = [event for event in self.EVENTS if self.switch(event, "1")]

    def switch(self, event, value):
        try:
            with open("%s/events/%s/enable" % (self.dir, event), "w") as file:
                file.write(value)
            return True
        except OSError:  # No tracefs, an old kernel without the event, or one that is locked down.
            return False

    def clear(self):
        if self.there:
            open(self.dir + "/trace", "w").close()

    def of(self, name):
        """Of the load of a module: (whether the kernel took it, None where it cannot be seen; what its init function returned, None
        where it cannot be seen; whether the kernel asked for other modules, which is taken for granted where it cannot be seen)."""
        if self.EVENTS[0] not in self.there:
            return None, None, True
        with open(self.dir + "/trace") as file:
            seen = re.findall(r"(?m)^.*-(\d+) .*? (module_load|module_request|initcall_finish): (.*)$", file.read())
        task = result = None
        for pid, event, text in seen:
            # The kernel traces a module once its symbols, relocations and parameters are in order, right before its init function.
            if event == "module_load" and text.split()[0] == name:
                task, result = pid, None
            elif event == "initcall_finish" and pid == task and result is None:
                result = int(text.rpartition("ret=")[2])
        return task is not None, result, any(event == "module_request" for _, event, _ in seen)

    def close(self):
        for event in self.there:
            self.switch(event, "0")


def name_of(number):
    """ENODEV No such device. Some are the kernel's alone, or have another name besides the kernel's."""
    own = {35: "EDEADLK", 95: "EOPNOTSUPP", 512: "ERESTARTSYS", 517: "EPROBE_DEFER", 524: "ENOTSUPP"}
    name = own.get(number) or errno.errorcode.get(number)
    return "%s %s" % (name, os.strerror(number) if number < 512 else "") if name else "%d " % -number


class Broke(Exception):
    """The kernel has died of a module, or hangs in it."""


class Load:
    """A module's way into the kernel and out again."""
    def __init__(self, module, log, trace, settle):
        self.module, self.log, self.trace, self.settle = module, log, trace, settle
        self.name = internal(module)
        self.told = set()

    def look(self):
        """What the kernel has said since the last look, after telling its complaints."""
        kernel = self.log.news()
        show(kernel)
        new = self.log.new_taint()
        if new & DIE:
            raise Broke("the kernel died: %s" % first(DEATH, kernel, "an oops"))
        self.warn(complaints(kernel), new)
        return kernel

    def warn(self, found, new=0):
        for bit in range(20):
            if new & ~self.allowed & (1 << bit) and not (1 << bit == WARN and found):
                found.append("it taints the kernel: %s" % TAINTS.get(bit, "bit %d" % bit))
        for text in found:
            if text not in self.told:
                self.told.add(text)
                say("warn", "%s %s" % (self.module, text))

    def wait(self):
        time.sleep(self.settle)
        self.look()

    def tries(self, *command):
        """A command that runs code of the module in the kernel: its exit code, what it said, and what the kernel did."""
        code, said = run(*command, limit=HANG)
        if code is None:
            stuck = first("soft lockup|blocked for more than|self-detected stall", self.log.news())
            raise Broke("its %s function has not returned after %d s%s%s"
                        % (self.phase, HANG, said and " (in %s)" % said, stuck and ": " + stuck))
        show(said)
        return code, said, self.look()

    def leave(self):
        # modprobe knows a module by its file's name, and the kernel by what is written in it.
        self.phase = "exit"
        return self.tries("modprobe", "-r", self.module) if self.name == internal(self.module) else self.tries("rmmod", self.name)

    def inside(self):
        return os.path.isdir("/sys/module/" + self.name)

    def run(self, files, retry):
        """'loaded', 'refused ERRNO REASON' or 'bad REASON'."""
        code, info = run("modinfo", "-k", RELEASE, self.module)
        if code != 0:
            return "bad modinfo does not find it: %s" % info

        def field(name):
            return first("^%s:" % name, info).partition(":")[2].strip()

        vermagic, path = field("vermagic"), field("filename")
        if not vermagic.startswith(RELEASE + " "):
            return "bad its vermagic is '%s', the kernel is %s" % (vermagic, RELEASE)
        if re.sub("^/usr/lib/", "/lib/", path) not in files:
            return "bad modprobe would take %s, which is not the package's file" % path
        self.name = internal(field("name") or self.module)
        # Out of tree and unsigned are what such a module is; proprietary only if its licence says so.
        self.allowed = OUT_OF_TREE | UNSIGNED | (0 if field("license") in FREE_LICENCES else PROPRIETARY)
        say("doing", "load " + self.module)
        if self.inside():
            # Already in: udev loaded it at installation, or the kernel has one of the same name built in.
            self.warn(complaints(self.log.early))
            self.log.early = ""
            self.leave()
            if self.inside():
                return "bad a module of this name is in the kernel already and does not leave"
        self.log.require_life(E_NOT_INSTALLED, "before %s was loaded" % self.module)
        self.phase = "init"
        kernel = ""
        for last in (False, True):
            self.trace.clear()
            code, said, news = self.tries("modprobe", "-v", self.module)
            kernel += news + "\n"
            if code == 0 or last:
                break
            asks = self.trace.of(self.name)[2]
            if not ((asks or field("softdep") or "Unknown symbol" in kernel) and retry()):
                break
        self.wait()
        if code != 0:
            return self.why_not(code, said, kernel, re.findall(r"(?m)^parm: *(\w+):", info))
        if not self.inside():
            return "bad modprobe succeeded, but there is no /sys/module/%s" % self.name
        say("doing", "unload " + self.module)
        return self.goes() or self.wait() or "loaded"

    def why_not(self, code, said, kernel, parameters):
        kernel = "\n".join(line for line in kernel.splitlines() if not USUAL.search(line))
        reason = first("(?i)%s|%s" % (re.escape(self.name), re.escape(self.module)), kernel)
        # Of a module that it does not trust, the kernel says no name.
        reason = reason or first("(?i)loading of .* is rejected", kernel)
        taken, result, _ = self.trace.of(self.name)
        if taken and result is None:
            # Before 4.18 the kernel does not trace what init returned; modprobe repeats it in the C library's words.
            result = next((-n for n in errno.errorcode if said.strip().endswith(": " + os.strerror(n))), None)
        if taken is None and "No such device" in said:
            result = -errno.ENODEV
        if result is not None and result < 0:
            wants = "it wants parameters (%s)" % ", ".join(parameters) if result == -errno.EINVAL and parameters else ""
            return "refused " + ": ".join(filter(None, (name_of(-result), wants, reason)))
        why = first("ERROR|FATAL|could not", said) or "modprobe ended with %d" % code
        return "bad %s%s" % (why, " (%s)" % reason if reason else "")

    def goes(self):
        """Why the module does not leave, when that is a fault of its own."""
        end = time.monotonic() + 5
        while True:
            code, said, _ = self.leave()
            if code == 0 and not self.inside():
                return None
            with open("/proc/modules") as file:
                row = first("^%s " % re.escape(self.name), file.read())
            users = os.listdir("/sys/module/%s/holders" % self.name) if self.inside() else []
            if "[permanent]" in row or users:
                say("stays", "%s %s" % (self.module, "other modules use it: %s" % ", ".join(users) if users else "it has no exit function"))
                return None
            # udev may have a device of it open still.
            if time.monotonic() > end:
                return "bad it does not leave the kernel: %s" % (said.strip() or "modprobe -r succeeded, and it is still there")
            time.sleep(0.5)


def load_all(modules, files, retry=lambda: False):
    """Loads each and says so. The exit code: E_BAD when one is bad. Ends the program when the kernel is broken: nothing that comes after
    that would tell anything of the other modules."""
    LOG.early = LOG.require_life(E_NOT_INSTALLED, "while the packages were being installed")
    trace, status = Trace(), E_DONE
    for module in modules:
        each = Load(module, LOG, trace, max(0.5, min(SETTLE, 8.0 / len(modules))))
        try:
            how = each.run(files, retry)
        except Broke as broke:
            say("load", "%s broke %s" % (module, broke))
            os._exit(E_BAD)
        say("load", "%s %s" % (module, how))
        if how.startswith("bad"):
            status = E_BAD
    trace.close()
    return status


def no_space(said, need=512 << 20):
    """Whether a disk ran out of room. What was said is only words, some of them the packages' own; what did not fit is undone again, so
    that `need` bytes more may be free by now."""
    # apt and dnf know before they begin.
    if re.search(r"(?m)^E: You don't have enough free space in |^ +At least \S+ more space needed on the ", said):
        return True
    if "No space left on device" not in said:
        return False
    for path, least in (("/", need), ("/usr", need), ("/var", need), ("/boot", 0), ("/tmp", 0)):
        room = os.statvfs(path)
        if room.f_bavail * room.f_frsize < least + (32 << 20) or (room.f_files and room.f_favail < 100):
            return True
    return False


LOG = None


def main(program, at_end=lambda: None):
    global LOG
    shutil.rmtree(WORK, ignore_errors=True)
    os.makedirs(WORK)
    signal.signal(signal.SIGALRM, beat)
    signal.setitimer(signal.ITIMER_REAL, BEAT, BEAT)
    try:
        running = os.uname().release
        if running != RELEASE:
            fail(E_OTHER_KERNEL, "the guest runs %s, not %s" % (running, RELEASE))
        LOG = KernelLog()
        status = program()
        LOG.require_life(E_LEFT_BEHIND, "after the modules were unloaded")
    finally:
        at_end()
        shutil.rmtree(WORK, ignore_errors=True)
    sys.exit(status)
