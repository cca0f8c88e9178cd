"""Installs the built packages in a guest that never ran the build, under that kernel, and loads the modules. Run as root.

Variables, besides load.py's: PACKAGES (list of [FILE NAME, SIZE, PACKAGE]), MODULES (names as modprobe takes them, in loading
order), NEEDS (modules of the kernel that they depend on), MANAGER (apt, dnf, zypper). The packages' bytes come on stdin, one
after the other.

Exit codes (lib/exit-codes.sh): DONE (all loaded or refused by themselves, and gone again) BAD INPUT NETWORK NOT_INSTALLED DISK_FULL
LEFT_BEHIND OTHER_KERNEL
"""


def receive():
    paths = []
    source = open(0, "rb", closefd=False)
    for name, size, _ in PACKAGES:
        paths.append("%s/%s" % (WORK, name))
        with open(paths[-1], "wb") as file:
            left = size
            while left > 0:
                data = source.read(min(left, 1 << 20))
                if not data:
                    fail(E_NETWORK, "%s did not arrive whole" % name)
                file.write(data)
                left -= len(data)
                say("progress")
    return paths


# The packages' postinst runs depmod, which reads every module of the kernel: 40 s under emulation. For that time the
# kernel's own modules are hidden, but for those that ours ask for and those of the same name.
hidden = False


def hide():
    global hidden
    wanted = set(internal(name) for name in MODULES + NEEDS)
    keep = set()
    with open(TREE + "/modules.dep") as file:
        for line in file:
            path, _, needs = line.partition(":")
            if internal(path.rsplit("/", 1)[-1].split(".ko")[0]) in wanted:
                keep.update([path] + needs.split())
    copies = {}
    for path in keep:
        if path.startswith("kernel/"):
            with open("%s/%s" % (TREE, path), "rb") as file:
                copies[path] = file.read()
    if run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", TREE + "/kernel")[0] != 0:
        return
    hidden = True
    for path, data in copies.items():
        os.makedirs(os.path.dirname("%s/%s" % (TREE, path)), exist_ok=True)
        with open("%s/%s" % (TREE, path), "wb") as file:
            file.write(data)


def unhide():
    """For a module that may have missed what is hidden. False if nothing is."""
    global hidden
    if not hidden:
        return False
    run("umount", TREE + "/kernel")
    hidden = False
    run("depmod", RELEASE)
    return True


def install(paths):
    """As the distro does it, and without a network: exit code and what was said."""
    # This VM is never booted again.
    ENV["INITRD"] = "No"
    commons = [path for path in paths if re.search("-(modules|kmod)-common[_-]", path)]
    others = [path for path in paths if path not in commons]
    if MANAGER == "apt":
        # What a DKMS package needs of the distro besides is not here. Alone: dpkg does not configure on the way what others pre-depend on.
        code, said = run("dpkg", "--force-unsafe-io", "--force-depends", "-i", *commons) if commons else (0, "")
        if code == 0:
            code, more = run("dpkg", "--force-unsafe-io", "-i", *others)
            said += more
        return code, said
    code, said = run("rpm", "-K", "--nosignature", *paths)
    if code != 0:
        return code, said
    show(said)
    show(run("rpm", "-qp", "--requires", "--provides", "--scripts", *paths)[1])
    code, said = install_rpms(paths)
    if code != 0 and commons and run("rpm", "-i", "--nodeps", *commons)[0] == 0:
        return install_rpms(others)
    return code, said


def install_rpms(paths):
    if MANAGER == "dnf":
        return run("dnf", "-y", "--disablerepo=*", "--nogpgcheck", "install", *paths)
    return run("zypper", "--non-interactive", "--no-refresh", "--no-gpg-checks", "install", "--allow-unsigned-rpm", *paths)


def remove(packages):
    return run("dpkg", "--force-unsafe-io", "-r", *packages) if MANAGER == "apt" else run("rpm", "-e", *packages)


def verify():
    for module in MODULES:
        if not re.match("[A-Za-z0-9_][A-Za-z0-9_-]*$", module):
            fail(E_INPUT, "not a module name: '%s'" % module)
    paths = receive()
    packages = [package for _, _, package in PACKAGES]
    if os.path.isdir(TREE + "/kernel"):
        hide()

    code, said = install(paths)
    show(said)
    if code != 0:
        # xz makes an eighth of what is easy to pack.
        if no_space(said, 8 * sum(size for _, size, _ in PACKAGES)):
            fail(E_DISK_FULL, "the guest's disk is full")
        causes = [line for line in said.splitlines() if re.search("depends on|^(dpkg: )?error|subprocess|conflict|(needed by|provides)|NOT OK|scriptlet failed", line, re.I)]
        fail(E_NOT_INSTALLED, "the package did not install: %s" % " ".join(causes[:4]))
    files = files_of(packages)
    status = load_all(MODULES, files, unhide)

    code, said = remove(packages)
    show(said)
    with open(TREE + "/modules.dep") as file:
        named = set(line.partition(":")[0] for line in file)
    left = ""
    if code != 0:
        left = "removing it: %s" % first("error|subprocess", said)
    for path in sorted(files):
        if os.path.exists(path):
            left = "%s is still there" % path
        elif path[len(TREE) + 1:] in named:
            left = "modules.dep still names %s" % path
    if left and status == E_DONE:
        fail(E_LEFT_BEHIND, "removing the package left something behind: %s" % left)
    return status


def at_end():
    if hidden:
        run("umount", TREE + "/kernel")


main(verify, at_end)
