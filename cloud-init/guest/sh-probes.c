/*
 * Stands at /bin/sh and answers what the kernel's makefiles ask a shell at each build, with what it answered before: what cc-probes.c
 * does for the compiler, but without the shell, the folder and the three or four processes around it. Make starts some forty of
 * these for a module of one file, half of all processes of its build.
 *
 * Questions are `sh -c TEXT` in which TEXT is, in scripts/Makefile.compiler and the makefiles beside it,
 *   a trial of the compiler: set -e; TMP=FOLDER/.tmp_$$/tmp; … if ( … ) >/dev/null 2>&1; then echo "…"; else echo "…"; fi
 *   uname, getconf LFS_…, the compiler's --version, pahole-flags.sh
 * Each is known again by all of: TEXT but FOLDER, PATH but dkms's own folder at its end, working folder unless it is FOLDER, and size
 * and time of the programs that it may start. What is learned comes from the build of an empty module, when the memory snapshot is
 * made, and never from a package's. All else is the shell's: SHELL is where that is now.
 *
 * With DKMS2BIN_LEARN_PROBES in the environment it runs the shell and writes down its answers.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "probes.h"

#ifndef SHELL /* a test has another one */
#define SHELL "/usr/local/lib/dkms2bin/sh"
#endif
#define TRIAL "set -e; TMP="
#define PLACE ".tmp_$$"
#define DKMS ":/usr/lib/dkms"

static const char *const programs[] = {"/usr/bin/gcc", "/usr/bin/ld", "/usr/bin/as", "/usr/bin/nm", "/usr/bin/pahole", "/usr/bin/getconf",
                                       "/usr/bin/uname", "/usr/bin/sed", "/usr/bin/head", "/usr/bin/grep", "/usr/bin/cmp", SHELL};
static char text[128 * 1024];

static int starts(const char *of, const char *with)
{
    return !strncmp(of, with, strlen(with));
}

/* A trial of the compiler: text is the question with an @ for each name of its folder, which is left in `folder`. */
static int is_trial(const char *asked, char *folder, size_t room)
{
    const char *from, *place, *next;
    char name[4200];
    size_t length, size = 0;

    if (!starts(asked, TRIAL) || !ends_with(asked, "; fi") || !strstr(asked, ") >/dev/null 2>&1; then echo "))
        return 0;
    from = asked + strlen(TRIAL);
    place = strstr(from, PLACE "/tmp;");
    if (!place)
        return 0;
    length = (size_t)(place - from);
    /* Of what needs no quotes. */
    if (length >= room || strspn(from, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._+-") < length)
        return 0;
    memcpy(folder, from, length);
    folder[length] = 0;
    snprintf(name, sizeof name, "%s" PLACE, folder);
    for (; (next = strstr(asked, name)); asked = next + strlen(name)) {
        length = (size_t)(next - asked);
        if (length + 2 >= sizeof text - size)
            return 0;
        memcpy(text + size, asked, length);
        text[size + length] = '@';
        size += length + 1;
    }
    if (strlen(asked) >= sizeof text - size)
        return 0;
    strcpy(text + size, asked);
    return 1;
}

static int is_fact(const char *asked)
{
    if (strlen(asked) >= sizeof text || strpbrk(asked, ";&`$(\n"))
        return 0;
    strcpy(text, asked);
    return starts(asked, "uname -m | sed -e s/i.86/x86/ ") || (starts(asked, "getconf LFS_") && ends_with(asked, " 2>/dev/null")) ||
           (starts(asked, "LC_ALL=C ") && ends_with(asked, " --version 2>/dev/null | head -n 1")) ||
           (starts(asked, "PAHOLE=") && ends_with(asked, "/scripts/pahole-flags.sh"));
}

/* Programs by the words of the question: compilers, which have many names, and scripts. 0: one of them is not what it seems. */
static int add_named(void)
{
    static char words[sizeof text];
    char *rest = words, *word, program[4200];

    strcpy(words, text);
    while ((word = strsep(&rest, " \t|()"))) {
        if (word[0] == '/' && ends_with(word, ".sh")) {
            if (!add_program(word))
                return 0;
        } else if (word[0] != '-' && !strpbrk(word, "='\"") && (strstr(word, "gcc") || strstr(word, "clang"))) {
            if (strchr(word, '/') || strlen(word) > 256)
                return 0;
            snprintf(program, sizeof program, "/usr/bin/%s", word);
            if (!add_program(program))
                return 0;
        }
    }
    return 1;
}

static int ask(const char *asked)
{
    char folder[4096] = "", here[4096], path[4096];
    const char *given = getenv("PATH");
    size_t length;
    int trial = is_trial(asked, folder, sizeof folder);

    if (!(trial || is_fact(asked)) || told_more() || !given || strlen(given) >= sizeof path || !getcwd(here, sizeof here))
        return 0;
    strcpy(path, given);
    if (ends_with(path, DKMS))
        path[strlen(path) - strlen(DKMS)] = 0;
    if (trial) {
        length = strlen(folder);
        /* A folder that a trial cannot make is told by the shell. */
        if (access(length ? folder : ".", W_OK))
            return 0;
        /* Kernels from 6.13 on build in the module's own folder. */
        if (length && folder[length - 1] == '/')
            folder[--length] = 0;
        if (!length || !strcmp(folder, here))
            here[0] = 0;
    }
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++)
        if (!add_program(programs[i]))
            return 0;
    return add("sh") && add(path) && add(here) && add(text) && add_named();
}

int main(int argc, char **argv)
{
    strcpy(real, SHELL);
    if (argc == 3 && !strcmp(argv[1], "-c") && ask(argv[2])) {
        if (getenv("DKMS2BIN_LEARN_PROBES"))
            learn(argv, NULL, 1);
        else
            answer(NULL);
    }
    execv(real, argv);
    perror(real);
    return 127;
}
