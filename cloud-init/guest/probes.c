/*
 * The memory of cc-probes.c and sh-probes.c: answers by question, each in a file. All of a question is in its file and decides; the
 * file's name is but a hash of it.
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
#include "probes.h"

#ifndef FOLDER /* a test has another one */
#define FOLDER "/usr/local/lib/dkms2bin/probes"
#endif
#define LIMIT (256 * 1024)

struct record {
    int32_t code;
    uint32_t key, output; /* bytes of each, which follow */
};

static char key[LIMIT], stored[sizeof(struct record) + 2 * LIMIT];
static size_t key_size;
static char path[256];
char real[4096];

int add(const char *text)
{
    size_t size = strlen(text) + 1;

    if (size > LIMIT - key_size)
        return 0;
    memcpy(key + key_size, text, size);
    key_size += size;
    return 1;
}

int add_program(const char *program)
{
    char about[128];
    struct stat file;

    if (stat(program, &file))
        return add("none");
    snprintf(about, sizeof about, "%lld %lld", (long long)file.st_size, (long long)file.st_mtime);
    return add(about);
}

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

int ends_with(const char *text, const char *end)
{
    size_t size = strlen(text), tail = strlen(end);
    return size >= tail && !strcmp(text + size - tail, end);
}

/* FNV-1a: finds the file; the key in it decides. */
static void find(void)
{
    uint64_t hash = 0xcbf29ce484222325u;

    for (size_t i = 0; i < key_size; i++)
        hash = (hash ^ (unsigned char)key[i]) * 0x100000001b3u;
    snprintf(path, sizeof path, FOLDER "/%016llx", (unsigned long long)hash);
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

void answer(const char *to)
{
    struct record *record = (struct record *)stored;
    const char *output;
    ssize_t size;
    int fd;

    find();
    fd = open(path, O_RDONLY | O_CLOEXEC);
    size = fd < 0 ? -1 : read_all(fd, stored, sizeof stored);
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

void learn(char **argv, const char *to, int good_alone)
{
    struct record record = {0, (uint32_t)key_size, 0};
    static char output[LIMIT];
    char partial[300];
    ssize_t size = 0;
    int pipes[2], status, fd;
    pid_t child;

    find();
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
    if (good_alone && record.code != 0)
        _exit(record.code);
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
