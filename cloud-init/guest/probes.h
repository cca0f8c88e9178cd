#include <stddef.h>

/* A memory of answers, for what stands before the compiler and the shell: see cc-probes.c and sh-probes.c. */

/* The program that is stood for: where it is now. */
extern char real[4096];

/* Adds a part to the question; 0: it is too long. */
int add(const char *text);
/* Adds what a program is by size and time: another one may answer otherwise. */
int add_program(const char *path);
/* Answers the question from memory and does not return, if it can. Where `to` is a file that is written, else NULL. */
void answer(const char *to);
/* Runs the program, writes its answer down, of a shell that of a good end alone, and ends as it did. */
void learn(char **argv, const char *to, int good_alone);
/* Whether the environment changes what the compiler does. */
int told_more(void);
int ends_with(const char *text, const char *end);
/* Whether all of it was written. */
int write_all(int fd, const char *bytes, size_t size);
