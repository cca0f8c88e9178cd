/*
 * Hands a plain compilation to the host, where the very same compiler runs without emulation: see src/compiler. Under
 * emulation a file takes the guest some ten times as long.
 *
 * Asked for by DKMS2BIN_COMPILE in the environment, for a compilation whose object lies in a build folder of dkms. The host hears
 * of the arguments and of each file of that folder, asks for those that it lacks, and answers with object, dependency file and
 * messages, or not at all. It names every file and folder outside the build folder that it has read: one of them that has
 * changed since the memory snapshot was made, and the answer is thrown away. Whatever is in doubt, the caller compiles itself.
 *
 * A message is one byte of kind, four bytes of length (big endian), eight bytes that tell this conversation from others, and the
 * rest. Zeros between messages are skipped: sent first, they fill up what a killed compiler left unfinished.
 *   to the host, 16 KiB at most    C: what to compile · L: the folder's entries · E: that is all · F: a file's bytes · G: all sent
 *   from the host, 64 KiB at most  N: files that it wants · R: refused · V: what must not have changed · P: path of the
 *                                  dependency file · O, D, S: bytes of object, dependency file, messages · Z: done
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include "cc-host.h"
#include "probes.h"

#ifndef PORT /* a test has another one */
#define PORT "/dev/virtio-ports/dkms2bin.cc"
#endif
#define LOCK "/run/dkms2bin-cc.lock"
#define STAMP "/usr/local/lib/dkms2bin/cc-stamp"
#define TREE "/var/lib/dkms/"
#define HEAD 13
#define SENT (16 * 1024)
#define RECEIVED (64 * 1024)
#define ENTRIES 20000
#define SILENCE_MS (10 * 60 * 1000)

struct bytes {
    char *data;
    size_t size, room;
};

struct entry {
    char *path;
    long long size;
};

static int port = -1;
static unsigned char session[8];
static char out[HEAD + SENT];
static struct entry entries[ENTRIES];
static size_t entry_count;
static struct bytes told;

static int append(struct bytes *to, const void *data, size_t size)
{
    if (size > to->room - to->size) {
        size_t room = to->room ? to->room : 64 * 1024;
        while (room - to->size < size)
            room *= 2;
        char *grown = realloc(to->data, room);
        if (!grown)
            return 0;
        to->data = grown;
        to->room = room;
    }
    memcpy(to->data + to->size, data, size);
    to->size += size;
    return 1;
}

static int append_text(struct bytes *to, const char *text)
{
    return append(to, text, strlen(text) + 1);
}

static int wait_for(short what)
{
    struct pollfd poller = {port, what, 0};

    /* Nobody listens on the host, or it has gone. */
    return poll(&poller, 1, SILENCE_MS) == 1 && (poller.revents & what) && !(poller.revents & POLLHUP);
}

static int put_all(const char *data, size_t size)
{
    while (size > 0) {
        ssize_t count = write(port, data, size);
        if (count < 0 && errno == EAGAIN && wait_for(POLLOUT))
            continue;
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return 0;
        data += count;
        size -= (size_t)count;
    }
    return 1;
}

/* Numbers are big endian. */
static void put_number(char *to, uint32_t number)
{
    for (int i = 0; i < 4; i++)
        to[i] = (char)(number >> (24 - 8 * i));
}

static uint32_t get_number(const char *from)
{
    uint32_t number = 0;

    for (int i = 0; i < 4; i++)
        number = number << 8 | (unsigned char)from[i];
    return number;
}

static void head(char *to, char kind, size_t size)
{
    to[0] = kind;
    put_number(to + 1, (uint32_t)size);
    memcpy(to + 5, session, sizeof session);
}

static int put(char kind, const char *data, size_t size)
{
    do {
        size_t part = size < SENT ? size : SENT;
        head(out, kind, part);
        memcpy(out + HEAD, data, part);
        if (!put_all(out, HEAD + part))
            return 0;
        data += part;
        size -= part;
    } while (size > 0);
    return 1;
}

static int get_all(char *data, size_t size)
{
    while (size > 0) {
        ssize_t count = read(port, data, size);
        if (count < 0 && errno == EAGAIN && wait_for(POLLIN))
            continue;
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return 0;
        data += count;
        size -= (size_t)count;
    }
    return 1;
}

/* The next message of this conversation: its kind, 0 when there is none. */
static char get(char *data, size_t *size)
{
    for (;;) {
        char header[HEAD];
        if (!get_all(header, HEAD))
            return 0;
        *size = get_number(header + 1);
        if (*size > RECEIVED || !get_all(data, *size))
            return 0;
        if (!memcmp(header + 5, session, sizeof session))
            return header[0];
    }
}

/* What builds leave and no compiler reads. */
static int is_product(const char *name)
{
    static const char *const ends[] = {".o", ".ko", ".cmd", ".d", ".a", ".mod", ".order", ".symvers"};

    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (ends_with(name, ends[i]))
            return 1;
    /* dkms's own, which grows meanwhile. */
    return !strcmp(name, "make.log");
}

/* Everything below a folder, parents first; `prefix` is the path so far, with a slash at its end unless it is empty. */
static int list(int folder, const char *prefix)
{
    DIR *stream = fdopendir(folder);
    struct dirent *each;
    int good = 1;

    if (!stream) {
        close(folder);
        return 0;
    }
    while (good && (errno = 0, each = readdir(stream))) {
        char path[4096], target[4096], line[4300];
        struct stat info;
        ssize_t length;
        const char *name = each->d_name;

        if (!strcmp(name, ".") || !strcmp(name, ".."))
            continue;
        if (fstatat(dirfd(stream), name, &info, AT_SYMLINK_NOFOLLOW)) {
            good = 0;
            break;
        }
        if (S_ISREG(info.st_mode) && is_product(name))
            continue;
        if ((size_t)snprintf(path, sizeof path, "%s%s", prefix, name) >= sizeof path - 1 || entry_count == ENTRIES) {
            good = 0;
            break;
        }
        snprintf(line, sizeof line, "%c %lld %lld.%09ld %lld.%09ld %llu %s",
                 S_ISREG(info.st_mode) ? 'f' : S_ISDIR(info.st_mode) ? 'd' : S_ISLNK(info.st_mode) ? 'l' : '?',
                 (long long)info.st_size, (long long)info.st_mtim.tv_sec, info.st_mtim.tv_nsec, (long long)info.st_ctim.tv_sec,
                 info.st_ctim.tv_nsec, (unsigned long long)info.st_ino, path);
        entries[entry_count].path = strdup(path);
        entries[entry_count].size = info.st_size;
        good = entries[entry_count].path && append_text(&told, line);
        entry_count++;
        if (good && S_ISLNK(info.st_mode)) {
            length = readlinkat(dirfd(stream), name, target, sizeof target - 1);
            good = length >= 0;
            if (good) {
                target[length] = 0;
                good = append_text(&told, target);
            }
        }
        if (good && S_ISDIR(info.st_mode)) {
            int below = openat(dirfd(stream), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            strcat(path, "/");
            good = below >= 0 && list(below, path);
        }
    }
    if (errno)
        good = 0;
    closedir(stream);
    return good;
}

static int send_file(int tree, uint32_t index)
{
    static char part[SENT];
    int fd;
    long long sent = 0;
    ssize_t count;

    if (index >= entry_count)
        return 0;
    fd = openat(tree, entries[index].path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return 0;
    put_number(part, index);
    while ((count = read(fd, part + 4, sizeof part - 4)) > 0) {
        sent += count;
        if (!put('F', part, 4 + (size_t)count))
            break;
    }
    close(fd);
    return count == 0 && sent == entries[index].size;
}

static int unchanged(const struct bytes *paths, const struct timespec *limit)
{
    struct stat info;

    for (size_t at = 0; at < paths->size; at += strlen(paths->data + at) + 1)
        if (lstat(paths->data + at, &info) || info.st_ctim.tv_sec > limit->tv_sec ||
            (info.st_ctim.tv_sec == limit->tv_sec && info.st_ctim.tv_nsec > limit->tv_nsec))
            return 0;
    return 1;
}

static int write_file(const char *path, const struct bytes *bytes)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    int good;

    if (fd < 0)
        return 0;
    good = write_all(fd, bytes->data, bytes->size);
    return close(fd) == 0 && good;
}

/* Whether the compiler would find its assembler where the host's does. */
static int usual_assembler(void)
{
    char folders[4096], path[4200], *rest = folders, *folder;
    const char *given = getenv("PATH");

    if (!given || strlen(given) >= sizeof folders)
        return 0;
    strcpy(folders, given);
    while ((folder = strsep(&rest, ":"))) {
        if (!strcmp(folder, "/usr/bin") || !strcmp(folder, "/bin"))
            return 1;
        snprintf(path, sizeof path, "%s/as", *folder ? folder : ".");
        if (!access(path, F_OK))
            return 0;
    }
    return 0;
}

/* The build folder of dkms in which the object lies: what is before it is cut off. */
static int find_tree(char *tree, size_t room, const char *folder, const char *object)
{
    const char *slash;
    int length = snprintf(tree, room, "%s%s%s", object[0] == '/' ? "" : folder, object[0] == '/' ? "" : "/", object);

    if (length < 0 || (size_t)length >= room || strncmp(tree, TREE, strlen(TREE)) || strstr(tree, "/../"))
        return 0;
    slash = tree + strlen(TREE);
    for (int i = 0; i < 2; i++) {
        slash = strchr(slash, '/');
        if (!slash)
            return 0;
        slash++;
    }
    if (strncmp(slash, "build/", 6))
        return 0;
    tree[slash + 5 - tree] = 0;
    return 1;
}

static int request(int argc, char **argv, const char *compiler, const char *folder, const char *tree)
{
    static const char *const passed[] = {"SOURCE_DATE_EPOCH", "LC_ALL", "LC_MESSAGES", "LC_CTYPE", "LANG", "LANGUAGE", "GCC_COLORS",
                                         "COLUMNS"};
    char line[4200];

    if (!append_text(&told, folder) || !append_text(&told, tree) || !append_text(&told, compiler))
        return 0;
    for (size_t i = 0; i < sizeof passed / sizeof *passed; i++) {
        const char *value = getenv(passed[i]);
        if (!value)
            continue;
        if ((size_t)snprintf(line, sizeof line, "%s=%s", passed[i], value) >= sizeof line || !append_text(&told, line))
            return 0;
    }
    if (!append_text(&told, ""))
        return 0;
    for (int i = 1; i < argc; i++)
        if (!append_text(&told, argv[i]))
            return 0;
    return put('C', told.data, told.size);
}

/* What the host answers, by the kind of the message. */
struct answer {
    struct bytes paths, deps_path, deps, said, compiled;
};

static struct bytes *part_of(struct answer *answer, char kind)
{
    switch (kind) {
    case 'V':
        return &answer->paths;
    case 'P':
        return &answer->deps_path;
    case 'D':
        return &answer->deps;
    case 'S':
        return &answer->said;
    case 'O':
        return &answer->compiled;
    default:
        return NULL;
    }
}

static int send_files(int tree, const char *wanted, size_t size)
{
    for (size_t at = 0; at + 4 <= size; at += 4)
        if (!send_file(tree, get_number(wanted + at)))
            return 0;
    return put('G', "", 0);
}

/* Takes what the host answers, believes it if it may, and writes object, dependency file and messages. */
static int converse(int tree, const char *object, const struct timespec *limit)
{
    static char data[RECEIVED];
    static struct answer answer;
    size_t size;
    char kind;

    while ((kind = get(data, &size)) != 'Z') {
        struct bytes *part = part_of(&answer, kind);
        if (part ? !append(part, data, size) : kind != 'N' || !send_files(tree, data, size))
            return 0;
    }
    if (!append(&answer.deps_path, "", 1) || !unchanged(&answer.paths, limit) || !write_file(object, &answer.compiled) ||
        (answer.deps_path.data[0] && !write_file(answer.deps_path.data, &answer.deps)))
        return 0;
    write_all(2, answer.said.data, answer.said.size);
    return 1;
}

/* Compiles on the host and does not return, if it can. */
void compile_on_host(int argc, char **argv, const char *compiler)
{
    char folder[4096], tree[8300];
    const char *object = NULL;
    struct stat stamp;
    int compiles = 0, lock, root;

    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-c"))
            compiles = 1;
        if (!strcmp(argv[i], "-o") && i + 1 < argc)
            object = argv[i + 1];
    }
    if (!compiles || !object || told_more() || !ends_with(object, ".o") || isatty(2) || stat(STAMP, &stamp) || !getcwd(folder, sizeof folder) ||
        !find_tree(tree, sizeof tree, folder, object) || !usual_assembler())
        return;
    root = open(tree, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    /* One at a time: the port has one owner. */
    lock = open(LOCK, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (root < 0 || lock < 0 || flock(lock, LOCK_EX))
        return;
    port = open(PORT, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (port >= 0 && getrandom(session, sizeof session, 0) == sizeof session) {
        int below = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (put_all(out, sizeof out) && request(argc, argv, compiler, folder, tree)) {
            told.size = 0;
            if (below >= 0 && list(below, "") && put('L', told.data ? told.data : "", told.size) && put('E', "", 0) &&
                converse(root, object, &stamp.st_mtim))
                _exit(0);
        }
    }
    if (port >= 0)
        close(port);
    close(root);
    close(lock);
}
