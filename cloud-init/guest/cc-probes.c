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
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cc-host.h"
#include "probes.h"

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

static int ask(int count, char **argv)
{
    char folder[4096];

    if (!getcwd(folder, sizeof folder) || !add(real) || !add_program(real) || !add(folder))
        return 0;
    for (int i = 1; i < count; i++)
        if (!add(argv[i]))
            return 0;
    return 1;
}

int main(int argc, char **argv)
{
    const char *slash = strrchr(argv[0], '/'), *to = NULL;
    int count;

    snprintf(real, sizeof real, "/usr/bin/%s", slash ? slash + 1 : argv[0]);
    count = probe(argc, argv, &to);
    /* gcc looks for its parts beside the path that it was started by. */
    argv[0] = real;
    if (count > 0 && ask(count, argv)) {
        if (getenv("DKMS2BIN_LEARN_PROBES"))
            learn(argv, to, 0);
        else
            answer(to);
    }
    if (count == 0 && getenv("DKMS2BIN_COMPILE"))
        compile_on_host(argc, argv, real);
    execv(real, argv);
    perror(real);
    return 127;
}
