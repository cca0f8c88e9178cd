/* Compiles on the host and does not return, if it can: see cc-host.c. */
void compile_on_host(int argc, char **argv, const char *compiler);
