"""What prove.py and upgrade.py have in common: a machine's packages, and a repository that is added to it as a person would.

Variables: HOST (of the repository, as this machine reaches it; may be empty), KEY_URL and KEYRING (where the key is, and where it belongs; empty for
a repository that is not signed), PROXY (for the distro's own sources, may be empty), AUTHORITIES (size in bytes of what comes on
stdin: certificates of further authorities that vouch for those, PEM)
"""
import socket

LISTS = {"apt": ("dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n"),
         "dnf": ("rpm", "-qa", "--qf", "installed %{NAME} %|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\n")}
LOST = "Could not (connect|resolve)|Failed to connect|Unable to connect|Connection (failed|timed out|refused|reset)|Cannot initiate|Timeout was reached|Temporary failure"
# ` NAME : Depends: …` is what names an unmet dependency, ` 1. …` of apt 3.
APT_WHY = r"^(?:[EW]: | \S+ : | +\d+\. ).*"
# That of the repository, which no proxy knows.
DIRECT = ["-o", "Acquire::http::Proxy::%s=DIRECT" % HOST] if HOST else []


def installed(manager="apt"):
    """Versions by package; of several, in one text."""
    code, said = run(*LISTS[manager])
    if code != 0:
        fail(E_PACKAGE_MANAGER, "%s failed: %s" % (LISTS[manager][0], said))
    found = {}
    for line in sorted(said.splitlines()):
        if line.startswith("installed "):
            name, version = line.split()[1:3]
            found[name] = "%s,%s" % (found[name], version) if name in found else version
    return found


def refuse(what, said, why=APT_WHY, code=None):
    """Ends with what the package manager said, with `code` when neither disk nor network is to blame."""
    if no_space(said):
        fail(E_DISK_FULL, "the guest's disk is full")
    lost = re.search(LOST, said)
    fail(E_NETWORK if lost else code or E_NOT_INSTALLED, "%s: %s" % (what, " ".join(re.findall(why, said, re.M)[:6]) or said[-300:]))


def apt_get(options, command, may_lack=False):
    """What it said; ends the program where it fails, with E_LACKS where it only lacks packages that others depend on and it `may_lack` them."""
    code, said = run("apt-get", *(options + DIRECT + list(command)))
    show(said)
    # An index of the repository that it does not take is a mere warning to apt-get update.
    untaken = r"(?m)^[EW]: (%s.*%s)" % ("Some index files|" if "Dir::Etc::SourceParts=-" in options else "", re.escape(HOST))
    if code != 0 or command[0] == "update" and re.search(untaken, said):
        lacks = may_lack and re.search(r"(?m)^ \S+ : (Pre)?Depends: |^E: Unable to satisfy dependencies", said)
        refuse("apt-get %s" % " ".join(command), said, code=E_LACKS if lacks else None)
    return said


def trusted():
    """Certificates of the machine's authorities and of further ones, as a file; None without further ones."""
    if not AUTHORITIES:
        return None
    known = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem")
    with open(0, encoding="ascii", closefd=False) as file:
        texts = [file.read(AUTHORITIES)]
    for path in known:
        if os.path.exists(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                texts.append(file.read())
            break
    # apt reads it as another user.
    os.chmod(WORK, 0o755)
    with open(WORK + "/authorities.pem", "w") as file:
        file.write("\n".join(texts))
    return WORK + "/authorities.pem"


def distro_options():
    """Of apt, for the distro's own sources: by the proxy, and trusting the further authorities."""
    file = trusted()
    options = ["-o", "Acquire::Languages=none", "-o", "Acquire::Retries=3", "-o", "APT::Sandbox::User=root"]
    options += ["-o", "Acquire::http::Proxy=" + PROXY, "-o", "Acquire::https::Proxy=" + PROXY] if PROXY else []
    return options + (["-o", "Acquire::https::CAInfo=" + file] if file else [])


def await_egress():
    """The link comes up a moment before this runs."""
    for _ in range(120):
        with open("/proc/net/route") as file:
            if re.search(r"(?m)^\S+\s+00000000", file.read()):
                return
        time.sleep(0.5)


def await_repository():
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


def fetch_key():
    if KEY_URL:
        os.makedirs(os.path.dirname(KEYRING), exist_ok=True)
        code, said = run("/usr/lib/apt/apt-helper", *(DIRECT + ["download-file", KEY_URL, KEYRING]))
        if code != 0:
            fail(E_NETWORK, "the key does not come: %s" % said)


