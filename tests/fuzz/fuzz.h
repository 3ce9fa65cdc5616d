/* fuzz.h: what the fuzz targets share.
 *
 * A target, tests/fuzz/fuzz_NAME.c, is one function that is fed any bytes at all and ends the
 * process when something is not as it must be. `make fuzz` links it with libFuzzer, which looks for
 * such bytes, starting from tests/fuzz/corpus/NAME; `make check` feeds it that corpus once
 * (replay.c), so that what was found stays found.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define must(condition) ((condition) ? (void)0 : must_failed(__FILE__, __LINE__, #condition, "", 0))
/* The same, and show the text at fault. */
#define must_of(condition, text, length)                                                           \
    ((condition) ? (void)0 : must_failed(__FILE__, __LINE__, #condition, text, length))

_Noreturn static inline void must_failed(const char *file, int line, const char *condition,
                                         const char *text, size_t length)
{
    fprintf(stderr, "%s:%d: must be: %s", file, line, condition);
    if (length > 0)
        fprintf(stderr, ", with: %.*s", length < 500 ? (int)length : 500, text);
    fputc('\n', stderr);
    abort();
}

/* A copy of exactly SIZE bytes, so that AddressSanitizer sees the first byte read beyond. */
static inline char *exact_copy(const void *bytes, size_t size)
{
    char *copy = malloc(size > 0 ? size : 1);
    must(copy != NULL);
    memcpy(copy, bytes, size);
    return copy;
}

/* True if the N bytes at S are a token of HTTP, said in another way than the parser says it. */
static inline bool is_all_token(const char *s, size_t n)
{
    static const char allowed[] = "!#$%&'*+-.^_`|~0123456789"
                                  "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for (size_t i = 0; i < n; i++)
        if (s[i] == '\0' || strchr(allowed, s[i]) == NULL)
            return false;
    return n > 0;
}

/* How much the next piece takes: 1 to 16, or all, by a small generator whose state is *SEED. */
static inline size_t next_piece(uint32_t *seed, size_t left)
{
    *seed = *seed * 1103515245U + 12345U;
    size_t n = 1 + (*seed >> 16) % 16;
    return n > left || (*seed >> 20) % 64 == 0 ? left : n;
}

#endif
