#include <stddef.h>

/* Whether the environment changes what the compiler does. */
int told_more(void);
/* Whether all of it was written. */
int write_all(int fd, const char *bytes, size_t size);
/* Compiles on the host and does not return, if it can: see cc-host.c. */
void compile_on_host(int argc, char **argv, const char *compiler);
