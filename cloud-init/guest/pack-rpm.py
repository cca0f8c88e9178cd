"""Makes .rpm packages with the distro's rpmbuild and hands them over as frames on stdout. Run as root.

Variables, set in front of this text: SIZES (bytes of the spec file, then of each source file), PACKAGES (file names that have to
come out, in order), ARCH, EPOCH. The bytes come on stdin, one after the other.

A frame is an ASCII line "DKMS2BIN1 KIND INDEX SIZE\\n" and then SIZE raw bytes: first `log`, what rpmbuild printed, then an `rpm`
for each of PACKAGES; none of those when it failed. The last line is "DKMS2BIN1 end SHA256 0\\n", see collect.py.
"""
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile

work = tempfile.mkdtemp(prefix="dkms2bin-rpm-", dir="/var/tmp")
out = sys.stdout.buffer
source = open(0, "rb", closefd=False)
count = 0
digest = hashlib.sha256()


def send(kind, data):
    global count
    out.write(b"DKMS2BIN1 %s %d %d\n" % (kind.encode(), count, len(data)))
    out.write(data)
    digest.update(data)
    count += 1


def receive(path, size):
    with open(path, "wb") as file:
        while size > 0:
            data = source.read(min(size, 1 << 20))
            if not data:
                sys.exit("the spec file and its sources did not arrive whole")
            file.write(data)
            size -= len(data)


try:
    for folder in ("SOURCES", "BUILD", "BUILDROOT", "RPMS"):
        os.mkdir(os.path.join(work, folder))
    receive(work + "/package.spec", SIZES[0])
    for number, size in enumerate(SIZES[1:]):
        receive("%s/SOURCES/%d" % (work, number), size)
    env = dict(os.environ, LC_ALL="C", HOME=work, SOURCE_DATE_EPOCH=str(EPOCH),
               PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    with open(work + "/log", "wb") as log:
        try:
            code = subprocess.call(
                ["rpmbuild", "-bb", "--target", ARCH, "--define", "_topdir " + work, "--define", "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
                 work + "/package.spec"], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=work, env=env)
        except OSError as error:
            code = 127
            log.write(("rpmbuild: %s\n" % error).encode())
    with open(work + "/log", "rb") as log:
        send("log", log.read()[-(1 << 20):])
    if code == 0:
        for name in PACKAGES:
            with open("%s/RPMS/%s" % (work, name), "rb") as file:
                send("rpm", file.read())
    out.write(b"DKMS2BIN1 end %s 0\n" % digest.hexdigest().encode())
    out.flush()
finally:
    shutil.rmtree(work, ignore_errors=True)
