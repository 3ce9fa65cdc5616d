/* shell.h: words for a shell's command line.
 *
 * Kind: included by server.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_SHELL_H
#define HANGUPD_SHELL_H

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "text.h"

/* ---- Words for the shell ------------------------------------------------------------- */

/* WORD as one word of a shell command line. */
static inline void shell_word(struct text *t, const char *word)
{
    static const char keywords[] = " if then elif else fi case esac for select while until do done "
                                   "in function time coproc ";
    char padded[16];
    bool plain = *word != '\0' && (snprintf(padded, sizeof padded, " %s ", word) > 12 ||
                                   strstr(keywords, padded) == NULL);
    for (const char *s = word; *s != '\0'; s++)
        plain = plain && (isalnum((unsigned char)*s) || strchr("_./:@%+,-", *s) != NULL);
    if (plain) {
        text_add(t, word);
        return;
    }
    text_char(t, '\'');
    for (const char *s = word; *s != '\0'; s++)
        if (*s == '\'')
            text_add(t, "'\\''");
        else
            text_char(t, *s);
    text_char(t, '\'');
}

/* The same in printable characters only, as the log leaves no others as they are. */
static inline void shell_word_printable(struct text *t, const char *word)
{
    bool printable = true;
    for (const char *s = word; *s != '\0'; s++)
        printable = printable && isprint((unsigned char)*s);
    if (printable) {
        shell_word(t, word);
        return;
    }
    text_add(t, "\"$(printf '");
    for (const char *s = word; *s != '\0'; s++) {
        unsigned char c = (unsigned char)*s;
        if (isprint(c) && strchr("'\\%", c) == NULL) {
            text_char(t, *s);
            continue;
        }
        text_char(t, '\\');
        for (int shift = 6; shift >= 0; shift -= 3)
            text_char(t, (char)('0' + (c >> shift & 7)));
    }
    text_add(t, "')\"");
}

#define COMMAND_SIZE (4 * PATH_MAX + 256) /* a byte becomes four at most */

/* The command line that settles what ID left, or everything, in the state directory PATH. */
static const char *recover_words(const char *path, const char *id)
{
    static char words[COMMAND_SIZE];
    struct text t = TEXT(words);
    text_add(&t, "hangupd recover --state ");
    shell_word_printable(&t, path);
    if (id != NULL) {
        text_char(&t, ' ');
        text_add(&t, id);
    }
    return text_end(&t);
}

#endif
