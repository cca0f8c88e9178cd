"""Adds a repository to a machine that has no compiler, no headers and no dkms, installs its packages with apt or dnf as a person
would, and loads their modules. Run as root.

Variables, besides those of load.py and repository.py: STEP, MANAGER (apt, dnf), SOURCES (the text for sources.list.d or yum.repos.d; by it dnf finds the
repository's key), PACKAGES

Steps:
  alone     installs from the repository alone, so that nothing can come from elsewhere; E_LACKS where that lacks what its packages depend on
  fetch     downloads them, and what the image's own sources have of what they depend on
  install   installs what fetch has brought; all that leads out is cut by then

Result lines besides load.py's: installed PACKAGE VERSION MODULE,MODULE…   for every package that came, most without modules

Exit codes (lib/exit-codes.sh): DONE (all loaded or refused by themselves) BAD NETWORK NOT_INSTALLED LACKS DISK_FULL PACKAGE_MANAGER
LEFT_BEHIND TOOLCHAIN TOOLCHAIN_CAME OTHER_KERNEL
"""
FILE = {"apt": "/etc/apt/sources.list.d/dkms2bin.list", "dnf": "/etc/yum.repos.d/dkms2bin.repo"}[MANAGER]
COMMANDS = re.compile(r"(.*-)?(gcc|g\+\+|cc|c\+\+|clang|tcc)(-[0-9.]+)?$|make$|gmake$|dkms$")
# gcc-12-base is a folder of documentation, which the C library's own package depends on.
TOOLCHAIN = re.compile(r"dkms$|.*-dkms$|make$|build-essential$|(gcc|g\+\+|clang)(-[0-9.]+)?(-x86-64-linux-gnu)?$|"
                       r"libc6-dev$|linux-(headers|kbuild)-|gcc-c\+\+$|glibc-devel$|kernel(-.+)?-devel(-.+)?$")


def toolchain(packages):
    """What there is of a toolchain, as text."""
    commands = [path for folder in ENV["PATH"].split(":") for path in glob.glob(folder + "/*")
                if COMMANDS.match(path.rsplit("/", 1)[-1])]
    trees = glob.glob("/usr/src/linux-headers-*") + glob.glob("/usr/src/kernels/*/Makefile") + glob.glob("/lib/modules/*/build/Makefile")
    return " ".join((sorted(filter(TOOLCHAIN.match, packages)) + commands + trees)[:6])


def apt(*command):
    options = ["-y", "-o", "Dpkg::Use-Pty=0", "-o", "Acquire::Languages=none"]
    if STEP == "alone":
        options += ["-o", "Dir::Etc::SourceList=" + FILE, "-o", "Dir::Etc::SourceParts=-", "-o", "Acquire::Retries=0"]
    elif STEP == "install":
        options += ["--no-download"]
    else:
        options += distro_options()
    return apt_get(options, command, STEP == "alone")


def dnf(*command):
    """It asks for the key of the metadata's signature, and -y says yes, as a person would."""
    if STEP == "alone":
        options = ["--disablerepo=*", "--enablerepo=dkms2bin", "--setopt=proxy=", "--setopt=retries=1"]
    elif STEP == "install":
        options = ["--cacheonly", "--setopt=proxy="]
    else:
        file = trusted()
        # What the layer was made with may be of last month.
        options = ["--downloadonly", "--refresh"] + (["--setopt=proxy=" + PROXY, "--setopt=dkms2bin.proxy=_none_"] if PROXY else [])
        options += ["--setopt=sslcacert=" + file] if file else []
    code, said = run("dnf", "-y", *(options + list(command)))
    show(said)
    if code != 0:
        lacks = STEP == "alone" and re.search("nothing provides", said)
        refuse("dnf %s" % command[0], said,
               r"^(?:Error|Errors|Problem| +Problem| +- |\[Errno|\[MIRROR|Status code|Package .* is not signed).*", E_LACKS if lacks else None)


def bring():
    """With apt, before anything is downloaded or installed, what would come is looked at."""
    if MANAGER == "dnf":
        dnf("install", *PACKAGES)
    elif STEP == "fetch":
        said = apt("update")
        if re.search("(?m)^[EW]: Failed to fetch", said) and re.search(LOST, said):
            refuse("apt-get update", said)
        came = re.findall(r"(?m)^Inst (\S+)", apt("-s", "install", *PACKAGES))
        if any(map(TOOLCHAIN.match, came)):
            fail(E_TOOLCHAIN_CAME, toolchain(came))
        apt("install", "--download-only", *PACKAGES)
    else:
        if STEP == "alone":
            apt("update")
        apt("install", *PACKAGES)


def prove():
    before = installed(MANAGER)
    if STEP != "install":
        there = toolchain(before)
        if there:
            fail(E_TOOLCHAIN, there)
        if STEP == "fetch":
            await_egress()
        await_repository()
        if MANAGER == "apt":
            fetch_key()
        with open(FILE, "w") as file:
            file.write(SOURCES)
    bring()
    if STEP == "fetch":
        return E_DONE

    after = installed(MANAGER)
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
