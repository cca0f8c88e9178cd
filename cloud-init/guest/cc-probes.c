/*
 * Stands before the compiler in PATH and answers a kernel makefile's probes ("does this compiler know that option?") with
 * what the very same compiler answered before. Every external module's build asks some thirty of them, at half a second
 * of emulation each; they are answered once, when the memory snapshot is made, and never learned from a package's build.
 *
 * A probe is a compilation of /dev/null (`… -x c /dev/null -o FILE`) or a question about the compiler itself (--version,
 * -dump…, -print-…). It is known again by all of: working folder, arguments but FILE, and the compiler's path, size and
 * time. Exit code and output, FILE's bytes included, are then what they were. Everything else goes to the compiler.
 *
 * A compilation may be the host's: see cc-host.c.
 *
 * Linked as /usr/local/lib/dkms2bin/cc/NAME it stands for /usr/bin/NAME. With DKMS2BIN_LEARN_PROBES in the environment it
 * runs the compiler and writes down its answers.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "cc-host.h"

#define FOLDER "/usr/local/lib/dkms2bin/probes"
#define LIMIT (256 * 1024)

struct record {
    int32_t code;
    uint32_t key, output; /* bytes of each, which follow */
};

static char key[LIMIT], stored[sizeof(struct record) + 2 * LIMIT];
static size_t key_size;
static char real[4096], path[256];

static int add(const char *text)
{
    size_t size = strlen(text) + 1;

    if (size > LIMIT - key_size)
        return 0;
    memcpy(key + key_size, text, size);
    key_size += size;
    return 1;
}

/* Whether the environment changes what the compiler does. */
int told_more(void)
{
    static const char *const names[] = {"CPATH", "C_INCLUDE_PATH", "COMPILER_PATH", "GCC_EXEC_PREFIX", "LIBRARY_PATH",
                                        "DEPENDENCIES_OUTPUT", "SUNPRO_DEPENDENCIES", "GCC_COMPARE_DEBUG", "LD_PRELOAD",
                                        "LD_LIBRARY_PATH", "GCC_EXTRA_DIAGNOSTIC_OUTPUT"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (getenv(names[i]))
            return 1;
    return 0;
}

/* How many arguments make up the question; 0: this is no probe. *to is the file that is written, NULL for standard output. */
static int probe(int argc, char **argv, const char **to)
{
    if (told_more())
        return 0;
    if (argc == 2 && (!strcmp(argv[1], "--version") || !strncmp(argv[1], "-dump", 5) || !strncmp(argv[1], "-print-", 7))) {
        *to = NULL;
        return argc;
    }
    if (argc < 7 || strcmp(argv[argc - 2], "-o") || strcmp(argv[argc - 3], "/dev/null") || strcmp(argv[argc - 5], "-x"))
        return 0;
    *to = argv[argc - 1];
    return argc - 1;
}

static int make_key(int count, char **argv)
{
    char folder[4096], about[128];
    struct stat compiler;
    uint64_t hash = 0xcbf29ce484222325u;

    if (stat(real, &compiler) || !getcwd(folder, sizeof folder))
        return 0;
    snprintf(about, sizeof about, "%lld %lld", (long long)compiler.st_size, (long long)compiler.st_mtime);
    if (!add(real) || !add(about) || !add(folder))
        return 0;
    for (int i = 1; i < count; i++)
        if (!add(argv[i]))
            return 0;
    /* FNV-1a: finds the file; the key in it decides. */
    for (size_t i = 0; i < key_size; i++)
        hash = (hash ^ (unsigned char)key[i]) * 0x100000001b3u;
    snprintf(path, sizeof path, FOLDER "/%016llx", (unsigned long long)hash);
    return 1;
}

static ssize_t read_all(int fd, char *into, size_t limit)
{
    size_t size = 0;

    while (size < limit) {
        ssize_t count = read(fd, into + size, limit - size);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return -1;
        if (count == 0)
            return (ssize_t)size;
        size += (size_t)count;
    }
    return -1; /* too much */
}

int write_all(int fd, const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t count = write(fd, bytes, size);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return 0;
        bytes += count;
        size -= (size_t)count;
    }
    return 1;
}

/* Answers from memory and does not return, if it can. */
static void answer(const char *to)
{
    struct record *record = (struct record *)stored;
    const char *output;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read_all(fd, stored, sizeof stored);

    if (fd >= 0)
        close(fd);
    if (size < (ssize_t)sizeof *record || (size_t)size != sizeof *record + record->key + record->output ||
        record->key != key_size || memcmp(record + 1, key, key_size))
        return;
    output = stored + sizeof *record + record->key;
    if (to && record->code == 0) {
        fd = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (fd < 0 || !write_all(fd, output, record->output) || close(fd))
            return; /* The compiler says what is wrong with that file. */
    } else if (!to && !write_all(1, output, record->output))
        _exit(1);
    _exit(record->code);
}

/* Runs the compiler, writes its answer down and ends as it did. */
static void learn(char **argv, const char *to)
{
    struct record record = {0, (uint32_t)key_size, 0};
    static char output[LIMIT];
    char partial[300];
    ssize_t size = 0;
    int pipes[2], status, fd;
    pid_t child;

    if (!to && pipe(pipes))
        return;
    child = fork();
    if (child < 0)
        return;
    if (child == 0) {
        if (!to) {
            dup2(pipes[1], 1);
            close(pipes[0]);
            close(pipes[1]);
        }
        execv(real, argv);
        _exit(127);
    }
    if (!to) {
        close(pipes[1]);
        size = read_all(pipes[0], output, sizeof output);
        close(pipes[0]);
    }
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (!WIFEXITED(status))
        _exit(1);
    record.code = WEXITSTATUS(status);
    if (to && record.code == 0) {
        fd = open(to, O_RDONLY | O_CLOEXEC);
        size = fd < 0 ? -1 : read_all(fd, output, sizeof output);
    }
    if (!to && size > 0 && !write_all(1, output, (size_t)size))
        _exit(1);
    snprintf(partial, sizeof partial, "%s.%d", path, (int)getpid());
    fd = size < 0 ? -1 : open(partial, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
    if (fd >= 0) {
        record.output = (uint32_t)size;
        if (write_all(fd, (const char *)&record, sizeof record) && write_all(fd, key, key_size) &&
            write_all(fd, output, (size_t)size) && close(fd) == 0)
            rename(partial, path);
        else
            unlink(partial);
    }
    _exit(record.code);
}

int main(int argc, char **argv)
{
    const char *slash = strrchr(argv[0], '/'), *to = NULL;
    int count;

    snprintf(real, sizeof real, "/usr/bin/%s", slash ? slash + 1 : argv[0]);
    count = probe(argc, argv, &to);
    /* gcc looks for its parts beside the path that it was started by. */
    argv[0] = real;
    if (count > 0 && make_key(count, argv)) {
        if (getenv("DKMS2BIN_LEARN_PROBES"))
            learn(argv, to);
        else
            answer(to);
    }
    if (count == 0 && getenv("DKMS2BIN_COMPILE"))
        compile_on_host(argc, argv, real);
    execv(real, argv);
    perror(real);
    return 127;
}
