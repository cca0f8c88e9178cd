"""What happens to a machine with our metapackage when its distro brings the next kernel. One step of it at a time. Run as root.

Variables, besides those of load.py (RELEASE is the kernel that runs now) and repository.py (HOST is empty, and PROXY given, in fetch):
  STEP        fetch, install, hold, upgrade or leave, in this order; the machine restarts into the new kernel before leave
  FROM, TO    the kernels' releases
  META        the distro's kernel metapackage, linux-image-amd64
  FROM_META, TO_META   its versions that lead to them; FROM_META may be empty where the archive has it no more
  SOURCES     of the repository, as in prove.py
  PACKAGES    our metapackages
  MODULES     packages of modules for FROM, after each the one for TO

The distro's archive is a folder in the machine, which holds what fetch took from the real one, and offers as much of it as a step says.

Result lines besides load.py's: made VERSION (a kernel metapackage that the archive has no more), installed PACKAGE VERSION MODULE,MODULE…,
held HOW kept|gone TEXT, removed PACKAGE

Exit codes (lib/exit-codes.sh): DONE BAD NOT_FOUND NETWORK NOT_INSTALLED DISK_FULL PACKAGE_MANAGER LEFT_BEHIND OTHER_KERNEL
"""
import hashlib

ARCHIVE = "/var/lib/dkms2bin-archive"
POOL = "/var/lib/dkms2bin-pool"
LIST = "/etc/apt/sources.list.d/dkms2bin.list"
ONLY = ["-y", "-o", "Dir::Etc::SourceList=" + LIST, "-o", "Dir::Etc::SourceParts=-", "-o", "Acquire::Retries=0",
        "-o", "Acquire::AllowReleaseInfoChange=true", "-o", "Dpkg::Use-Pty=0", "-o", "Acquire::Languages=none"]


def apt(*command):
    return apt_get(ONLY, command)


def field(deb, name):
    return run("dpkg-deb", "-f", deb, name)[1].strip()


def metapackage(release, version):
    """One like the distro's, where its own is gone."""
    folder = WORK + "/meta"
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder + "/DEBIAN")
    image = next((path for path in glob.glob(POOL + "/*.deb") if field(path, "Package") == "linux-image-" + release), None)
    exact = " (= %s)" % field(image, "Version") if image else ""
    with open(folder + "/DEBIAN/control", "w") as file:
        file.write("Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: dkms2bin <dkms2bin@localhost>\nDepends: linux-image-%s%s\n"
                   "Description: kernel metapackage, as the distro had it\n"
                   % (META, version, run("dpkg", "--print-architecture")[1].strip(), release, exact))
    code, said = run("dpkg-deb", "--build", "--root-owner-group", folder, "%s/%s.deb" % (POOL, release))
    if code != 0:
        fail(E_PACKAGE_MANAGER, said)
    say("made", version)


def fetch():
    get = ["apt-get"] + distro_options()
    await_egress()
    os.makedirs(POOL, exist_ok=True)
    os.chdir(POOL)
    code, said = run(*(get + ["update"]))
    show(said)
    code, said = run(*(get + ["download", "linux-image-" + TO]))
    if code != 0:
        if re.search("Unable to locate|no installation candidate|Can't select", said):
            fail(E_NOT_FOUND, "the distro's archive has no linux-image-%s" % TO)
        refuse("apt-get download linux-image-" + TO, said)
    own = installed().get("linux-image-" + FROM)
    if not own:
        fail(E_NOT_INSTALLED, "linux-image-%s is not installed" % FROM)
    for release, version in ((TO, TO_META), (FROM, FROM_META or own)):
        there = glob.glob(POOL + "/*")
        code, said = run(*(get + ["download", "%s=%s" % (META, version)]))
        new = [path for path in glob.glob(POOL + "/*") if path not in there]
        # It may lead to another build of the kernel than the one that runs.
        if code == 0 and release == FROM and "(= %s)" % own not in field(new[0], "Depends"):
            os.unlink(new[0])
            code = 1
        if code != 0:
            metapackage(release, version)
    return E_DONE


def offer(new):
    """Makes the distro's archive of what it has now."""
    os.makedirs(ARCHIVE, exist_ok=True)
    rows = []
    for path in sorted(glob.glob(POOL + "/*.deb")):
        depends = field(path, "Depends")
        is_new = field(path, "Package") == "linux-image-" + TO or "linux-image-%s " % TO in depends + " "
        if is_new and not new:
            continue
        to = ARCHIVE + "/" + os.path.basename(path).replace("%3a", "+")
        if not os.path.exists(to):
            os.link(path, to)
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        rows.append("%s\nFilename: ./%s\nSize: %d\nSHA256: %s\n" % (run("dpkg-deb", "-f", path)[1].rstrip(), os.path.basename(to),
                                                               os.path.getsize(path), digest))
    with open(ARCHIVE + "/Packages", "w") as file:
        file.write("\n".join(rows))


def use():
    """Both archives, with the repository's key."""
    await_repository()
    fetch_key()
    with open(LIST, "w") as file:
        file.write("deb [trusted=yes] file:%s ./\n%s" % (ARCHIVE, SOURCES))
    apt("update")


def told(before):
    """Says what came since; the modules of it."""
    after, modules = installed(), []
    for name in sorted(name for name in after if before.get(name) != after[name]):
        own = sorted(re.sub(r"\.ko(\..*)?$", "", path.rsplit("/", 1)[-1]) for path in files_of([name])) if name in MODULES else []
        modules += own
        say("installed", "%s %s %s" % (name, after[name], ",".join(own)))
    return after, modules


def install():
    offer(False)
    # What the image was made with is held there, so that nothing newer comes along.
    run("apt-mark", "unhold", META, "linux-image-" + FROM)
    before = installed()
    use()
    apt("install", "--no-install-recommends", META, *PACKAGES)
    after, modules = told(before)
    for name in PACKAGES + [META] + MODULES[::2]:
        if name not in after:
            fail(E_NOT_INSTALLED, "apt-get install succeeded, but %s is not installed" % name)
    return load_all(modules, files_of(MODULES[::2]))


def hold():
    offer(True)
    apt("update")
    before, status = installed(), E_DONE
    for how in (["upgrade"], ["upgrade", "--with-new-pkgs"], ["dist-upgrade"]):
        said = apt(*how)
        # The names stand on lines that begin with blanks, after a line of words.
        back = re.search(r"kept back:\n((?: .*\n)+)", said)
        names = back.group(1).split() if back else []
        kept = installed() == before and META in names
        say("held", "%s %s %s" % ("+".join(how), "kept" if kept else "gone", "kept back: " + " ".join(names) if names else said[-200:]))
        if not kept:
            return E_BAD
    return status


def upgrade():
    before = installed()
    use()
    said = apt("upgrade", "--with-new-pkgs")
    after, _ = told(before)
    for name in ["linux-image-" + TO] + MODULES[1::2]:
        if name not in after:
            fail(E_NOT_INSTALLED, "the upgrade succeeded, but %s is not installed; apt said: %s" % (name, said[-300:]))
    run("sync")
    return E_DONE


def leave():
    status = load_all(sorted(re.sub(r"\.ko(\..*)?$", "", path.rsplit("/", 1)[-1]) for path in files_of(MODULES[1::2])), files_of(MODULES[1::2]))
    before = installed()
    apt("remove", "linux-image-" + FROM)
    after = installed()
    for name in sorted(set(before) - set(after)):
        say("removed", name)
    for name in MODULES[::2]:
        if name in after:
            fail(E_LEFT_BEHIND, "%s stays although its kernel is gone" % name)
    for name in PACKAGES + MODULES[1::2] + [META]:
        if name not in after:
            fail(E_LEFT_BEHIND, "%s went along with the old kernel" % name)
    return status


main({"fetch": fetch, "install": install, "hold": hold, "upgrade": upgrade, "leave": leave}[STEP])
