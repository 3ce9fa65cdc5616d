/* shell.h: words for a shell's command line.
 *
 *     struct text t = TEXT(line);
 *     text_add(&t, "rm ");
 *     shell_word(&t, path);                  // rm '/tmp/a file'
 *
 *     puts(recover_words(state, id));        // hangupd recover --state DIR ID
 *
 * For undo commands that we write ourselves, and for lines that people copy from the log. A word is
 * always one word for POSIX sh, whatever it contains; what does not fit into the text is cut.
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

/* Add WORD, quoted if it needs that. A keyword needs it where a command's name is wanted. */
static void shell_word(struct text *t, const char *word)
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

/* The same in printable characters only: the log escapes all others, and what is copied from there
 * would then be another word. */
static void shell_word_printable(struct text *t, const char *word)
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

/* Returns the command line that settles what ID left, or everything if it is NULL, in the state
 * directory PATH; until the next call. */
static const char *recover_words(const char *path, const char *id)
{
    static char words[COMMAND_SIZE];
    struct text t = TEXT(words);
    text_add(&t, "hangupd recover --state ");
    shell_word_printable(&t, path);
    if (id != NULL)
        text_format(&t, " %s", id);
    return text_end(&t);
}

#endif
