"""Adds a repository to a machine that has no compiler, no headers and no dkms, installs its packages with apt or dnf as a person
would, and loads their modules. Run as root.

Variables, besides load.py's: MANAGER (apt, dnf), URL, SOURCES (the text for sources.list.d or yum.repos.d), KEY_URL and KEYRING
(of apt: where the key is, and where it belongs; empty for a repository that is not signed; dnf finds it by SOURCES), PACKAGES

Result lines besides load.py's: installed PACKAGE VERSION MODULE,MODULE…   for every package that came, most without modules

Exit codes (lib/exit-codes.sh): DONE (all loaded or refused by themselves) BAD NETWORK NOT_INSTALLED DISK_FULL PACKAGE_MANAGER
LEFT_BEHIND TOOLCHAIN TOOLCHAIN_CAME OTHER_KERNEL
"""
import socket
import time


HOST = URL.split("/")[2]
DIRECT = "Acquire::http::Proxy::%s=DIRECT" % HOST
FILE = {"apt": "/etc/apt/sources.list.d/dkms2bin.list", "dnf": "/etc/yum.repos.d/dkms2bin.repo"}[MANAGER]
COMMANDS = re.compile(r"(.*-)?(gcc|g\+\+|cc|c\+\+|clang|tcc)(-[0-9.]+)?$|make$|gmake$|dkms$")
# gcc-12-base is a folder of documentation, which the C library's own package depends on.
TOOLCHAIN = re.compile(r"dkms$|.*-dkms$|make$|build-essential$|(gcc|g\+\+|clang)(-[0-9.]+)?(-x86-64-linux-gnu)?$|"
                       r"libc6-dev$|linux-(headers|kbuild)-|gcc-c\+\+$|glibc-devel$|kernel(-.+)?-devel(-.+)?$")
LIST = {"apt": ("dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n"),
        "dnf": ("rpm", "-qa", "--qf", "installed %{NAME} %|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\n")}[MANAGER]


def installed():
    """Versions by package; of several, in one text."""
    code, said = run(*LIST)
    if code != 0:
        fail(E_PACKAGE_MANAGER, "%s failed: %s" % (LIST[0], said))
    found = {}
    for line in sorted(said.splitlines()):
        if line.startswith("installed "):
            name, version = line.split()[1:3]
            found[name] = "%s,%s" % (found[name], version) if name in found else version
    return found


def toolchain(packages):
    """What there is of a toolchain, as text."""
    commands = [path for folder in ENV["PATH"].split(":") for path in glob.glob(folder + "/*")
                if COMMANDS.match(path.rsplit("/", 1)[-1])]
    trees = glob.glob("/usr/src/linux-headers-*") + glob.glob("/usr/src/kernels/*/Makefile") + glob.glob("/lib/modules/*/build/Makefile")
    return " ".join((sorted(filter(TOOLCHAIN.match, packages)) + commands + trees)[:6])


def refuse(what, said, lost, why):
    """Ends with what the package manager said."""
    if no_space(said):
        fail(E_DISK_FULL, "the guest's disk is full")
    fail(E_NETWORK if re.search(lost, said) else E_NOT_INSTALLED, "%s: %s" % (what, " ".join(re.findall(why, said, re.M)[:6]) or said[-300:]))


def apt(*command):
    """Nothing but the repository is asked, so nothing can come from elsewhere."""
    code, said = run("apt-get", "-y", "-o", "Dir::Etc::SourceList=" + FILE, "-o", "Dir::Etc::SourceParts=-",
                     "-o", DIRECT, "-o", "Acquire::Retries=0",
                     "-o", "Dpkg::Use-Pty=0", *command)
    show(said)
    # An index that it does not take is a mere warning to apt-get update.
    if code == 0 and not (command == ("update",) and re.search(r"^[EW]: (Some index files|.*%s)" % re.escape(HOST), said, re.M)):
        return
    # ` NAME : Depends: …` is what names an unmet dependency.
    refuse("apt-get %s" % command[0], said, "Could not connect|Connection (failed|timed out|refused|reset)|Unable to connect|Cannot initiate",
           r"^(?:[EW]: | \S+ : ).*")


def dnf(*command):
    """As apt, with the one repository. It asks for the key of the metadata's signature, and -y says yes, as a person would."""
    code, said = run("dnf", "-y", "--disablerepo=*", "--enablerepo=dkms2bin", "--setopt=proxy=", "--setopt=retries=1", *command)
    show(said)
    if code != 0:
        refuse("dnf %s" % command[0], said, "Could not connect|Failed to connect|Connection (timed out|refused|reset)|Timeout was reached",
               r"^(?:Error|Errors|Problem| +Problem| +- |\[Errno|\[MIRROR|Status code|Package .* is not signed).*")


def await_network():
    """A machine that booted a moment ago may still be about to set up its addresses."""
    for _ in range(120):
        try:
            socket.create_connection((HOST, 80), 5).close()
            return
        except OSError as error:
            why = error
            say("progress")
            time.sleep(0.5)
    fail(E_NETWORK, "the repository cannot be reached: %s" % why)


def prove():
    before = installed()
    there = toolchain(before)
    if there:
        fail(E_TOOLCHAIN, there)

    await_network()
    if KEY_URL and MANAGER == "apt":
        os.makedirs(os.path.dirname(KEYRING), exist_ok=True)
        code, said = run("/usr/lib/apt/apt-helper", "-o", DIRECT, "download-file", KEY_URL, KEYRING)
        if code != 0:
            fail(E_NETWORK, "the key does not come: %s" % said)
    with open(FILE, "w") as file:
        file.write(SOURCES)
    if MANAGER == "apt":
        apt("update")
        apt("install", *PACKAGES)
    else:
        dnf("install", *PACKAGES)

    after = installed()
    came = sorted(name for name in after if before.get(name) != after[name])
    modules = []
    for name in came:
        own = sorted(re.sub(r"\.ko(\..*)?$", "", path.rsplit("/", 1)[-1]) for path in files_of([name]))
        modules += own
        say("installed", "%s %s %s" % (name, after[name], ",".join(own)))
    for name in PACKAGES:
        if name not in after:
            fail(E_NOT_INSTALLED, "%s succeeded, but %s is not installed" % (MANAGER, name))
    status = load_all(modules, files_of(came))
    there = toolchain(after)
    if there:
        fail(E_TOOLCHAIN_CAME, there)
    return status


main(prove)
