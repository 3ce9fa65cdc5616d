/* harness_files.h: paths and files of a test. */
#ifndef HARNESS_FILES_H
#define HARNESS_FILES_H

#include <stdbool.h>

/* FORMAT as a path in the test's directory. Valid for the next 15 calls. */
const char *at(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool exists(const char *path);
bool is_empty(const char *directory); /* or not there */
/* Returns true if TMPDIR has nothing of a request: at most the pool of one server, with the empty
 * directories that its slots keep. */
bool no_scratch(void);
/* Returns true if a directory in TMPDIR with this NAME is a server's pool. */
bool is_pool_name(const char *name);
void file_write(const char *path, const char *text);
char *file_read(const char *path);  /* "" if it is not there; valid for the next 3 calls */
void remove_tree(const char *path); /* of this file system alone */
/* Wait until PATH is there or gone. */
void wait_exists(const char *path);
void wait_gone(const char *path);

/* All three return text for the caller to free. */
/* Returns the README's first fenced block of the kind INFO that holds WITH. */
char *readme_block(const char *info, const char *with);
/* Returns the text of tests/deploy/NAME, a configuration that users start from. */
char *deploy_file(const char *name);
/* Returns TEXT, which is freed, with WITH in the place of its first WHAT, which must be there. */
char *replaced(char *text, const char *what, const char *with);

#endif
