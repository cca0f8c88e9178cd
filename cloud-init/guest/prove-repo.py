"""Adds a repository to a machine that has no compiler, no headers and no dkms, installs its packages with apt as a person
would, and loads their modules. Run as root.

Variables, besides load.py's: URL, LIST (the line for sources.list.d), KEY_URL and KEYRING (where the key is, and where it
belongs; empty for a repository that is not signed), PACKAGES

Result lines besides load.py's: installed PACKAGE VERSION MODULE,MODULE…   for every package that came, most without modules

Exit codes: 0 all loaded or refused by themselves · 1 a module is bad · 2 bad variables · 5 the repository did not answer ·
7 apt does not take the repository or the packages · 8 no space left · 12 not a machine without toolchain ·
13 a toolchain came along · 20 another kernel runs
"""
import socket
import time


HOST = URL.split("/")[2]
DIRECT = "Acquire::http::Proxy::%s=DIRECT" % HOST
SOURCES = "/etc/apt/sources.list.d/dkms2bin.list"
COMMANDS = re.compile(r"(.*-)?(gcc|g\+\+|cc|c\+\+|clang|tcc)(-[0-9.]+)?$|make$|gmake$|dkms$")
# gcc-12-base is a folder of documentation, which the C library's own package depends on.
TOOLCHAIN = re.compile(r"dkms$|.*-dkms$|make$|build-essential$|(gcc|g\+\+|clang)(-[0-9.]+)?(-x86-64-linux-gnu)?$|"
                       r"libc6-dev$|linux-(headers|kbuild)-")


def installed():
    """Versions by package."""
    code, said = run("dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n")
    if code != 0:
        fail(2, "dpkg-query failed: %s" % said)
    return dict(line.split()[1:3] for line in said.splitlines() if line.startswith("installed "))


def toolchain(packages):
    """What there is of a toolchain, as text."""
    commands = [path for folder in ENV["PATH"].split(":") for path in glob.glob(folder + "/*")
                if COMMANDS.match(path.rsplit("/", 1)[-1])]
    trees = glob.glob("/usr/src/linux-headers-*") + glob.glob("/lib/modules/*/build/Makefile")
    return " ".join((sorted(filter(TOOLCHAIN.match, packages)) + commands + trees)[:6])


def apt(*command):
    """Nothing but the repository is asked, so nothing can come from elsewhere."""
    code, said = run("apt-get", "-y", "-o", "Dir::Etc::SourceList=" + SOURCES, "-o", "Dir::Etc::SourceParts=-",
                     "-o", DIRECT, "-o", "Acquire::Retries=0",
                     "-o", "Dpkg::Use-Pty=0", *command)
    show(said)
    # An index that it could not take is a mere warning to apt-get update.
    if code == 0 and not re.search("^W: (Failed to fetch|Some index files|GPG error)", said, re.M):
        return
    if re.search("No space left on device|enough free space", said):
        fail(8, "the guest's disk is full")
    # ` NAME : Depends: …` is what names an unmet dependency.
    why = re.findall(r"^(?:[EW]: | \S+ : ).*", said, re.M)
    lost = re.search("Could not connect|Connection (failed|timed out|refused|reset)|Unable to connect|Cannot initiate", said)
    fail(5 if lost else 7, "apt-get %s: %s" % (command[0], " ".join(why[:6]) or said[-300:]))


def await_network():
    """A machine that booted a moment ago may still be about to set up its addresses."""
    for _ in range(120):
        try:
            socket.create_connection((HOST, 80), 5).close()
            return
        except OSError as error:
            why = error
            time.sleep(0.5)
    fail(5, "the repository cannot be reached: %s" % why)


def prove():
    before = installed()
    there = toolchain(before)
    if there:
        fail(12, there)

    await_network()
    if KEY_URL:
        os.makedirs(os.path.dirname(KEYRING), exist_ok=True)
        code, said = run("/usr/lib/apt/apt-helper", "-o", DIRECT, "download-file", KEY_URL, KEYRING)
        if code != 0:
            fail(5, "the key does not come: %s" % said)
    with open(SOURCES, "w") as file:
        file.write(LIST)
    apt("update")
    apt("install", *PACKAGES)

    after = installed()
    came = sorted(name for name in after if before.get(name) != after[name])
    modules = []
    for name in came:
        own = sorted(re.sub(r"\.ko(\..*)?$", "", path.rsplit("/", 1)[-1]) for path in files_of([name]))
        modules += own
        say("installed", "%s %s %s" % (name, after[name], ",".join(own)))
    for name in PACKAGES:
        if name not in after:
            fail(7, "apt-get succeeded, but %s is not installed" % name)
    status = load_all(modules, files_of(came))
    there = toolchain(after)
    if there:
        fail(13, there)
    return status


main(prove)
