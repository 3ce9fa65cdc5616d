/* fuzz_chunks.c: the decoder of chunked coding, fed any bytes.
 *
 * However they come in pieces, the same body must come out, with the same end or the same
 * complaint; data lies within the bytes that are used up, and these within the bytes given; a
 * body that the decoder accepts is the one that a plain reading of RFC 9112 section 7.1 finds; and
 * a plain one is accepted.
 * The first byte chooses the pieces.
 */
#include "fuzz.h"
#include "http.h"

struct decoded {
    enum http_chunk_step end; /* CHUNK_MORE: it did not end */
    size_t used, length;
    const char *reason;
    char *body;
};

static struct decoded decode(const uint8_t *data, size_t size, uint32_t *seed)
{
    struct http_chunks c = {0};
    struct decoded d = {.end = CHUNK_MORE, .body = exact_copy(data, size)};
    for (size_t have = 0; have < size && d.end == CHUNK_MORE;) {
        size_t n = seed == NULL ? size : next_piece(seed, size - have);
        char *piece = exact_copy(data + have, n);
        for (size_t at = 0; at < n && d.end == CHUNK_MORE;) {
            size_t used = 0, data_at = 0, data_length = 0;
            enum http_chunk_step step =
                http_decode_chunks(&c, piece + at, n - at, &used, &data_at, &data_length);
            must(used > 0 && used <= n - at);
            if (step == CHUNK_DATA) {
                must(data_length > 0 && data_at <= used && data_length <= used - data_at);
                must(d.length + data_length <= size);
                memcpy(d.body + d.length, piece + at + data_at, data_length);
                d.length += data_length;
            } else if (step == CHUNK_MORE) {
                must(used == n - at);
            } else {
                d.end = step;
            }
            at += used;
            d.used += used;
        }
        free(piece);
        have += n;
    }
    d.reason = d.end == CHUNK_BAD ? c.reason : NULL;
    must((d.reason != NULL) == (d.end == CHUNK_BAD));
    return d;
}

/* ---- A plain reading: lines end in CRLF, sizes are hexadecimal, nothing else matters ------- */

static size_t line_length(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i + 1 < size; i++)
        if (data[i] == '\r' && data[i + 1] == '\n')
            return i;
    abort(); /* the decoder has seen an end that is not there */
}

/* The body that DATA holds, all of it used. */
static void check_accepted(const uint8_t *data, size_t size, const struct decoded *d)
{
    size_t at = 0, length = 0;
    for (;;) {
        char digits[20] = "", *end;
        size_t n = line_length(data + at, size - at), digit_count = 0;
        while (digit_count < n && data[at + digit_count] != '\0' &&
               strchr("0123456789abcdefABCDEF", data[at + digit_count]) != NULL)
            digit_count++;
        size_t zeros = 0; /* any number of them may lead */
        while (zeros + 1 < digit_count && data[at + zeros] == '0')
            zeros++;
        must(digit_count > 0 && digit_count - zeros < sizeof digits);
        must(digit_count == n || data[at + digit_count] == ';');
        memcpy(digits, data + at + zeros, digit_count - zeros);
        unsigned long long chunk = strtoull(digits, &end, 16);
        at += n + 2;
        if (chunk == 0)
            break;
        must(chunk <= size - at && length + chunk <= d->length);
        must(memcmp(d->body + length, data + at, (size_t)chunk) == 0);
        length += (size_t)chunk;
        at += (size_t)chunk;
        must(line_length(data + at, size - at) == 0);
        at += 2;
    }
    for (size_t n = 1; n > 0; at += n + 2) {
        n = line_length(data + at, size - at);
        must(n == 0 || (data[at] != ':' && memchr(data + at, ':', n) != NULL));
    }
    must(at == size && length == d->length);
}

/* How long a body is that nobody could refuse: sizes of a few digits, no extensions, no trailers.
 * 0: it is not one. */
static size_t plain_length(const uint8_t *data, size_t size)
{
    for (size_t at = 0;;) {
        char digits[6] = "";
        size_t n = 0;
        while (n + 1 < sizeof digits && at + n < size && data[at + n] != '\0' &&
               strchr("0123456789abcdefABCDEF", data[at + n]) != NULL) {
            digits[n] = (char)data[at + n];
            n++;
        }
        size_t chunk = (size_t)strtoul(digits, NULL, 16), end = at + n + 2 + chunk;
        if (n == 0 || end + 2 > size || memcmp(data + at + n, "\r\n", 2) != 0 ||
            memcmp(data + end, "\r\n", 2) != 0)
            return 0;
        at = end + 2;
        if (chunk == 0)
            return at;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    uint32_t seed = *data;
    data++;
    size--;
    struct decoded whole = decode(data, size, NULL);
    struct decoded pieces = decode(data, size, &seed);
    must(whole.end == pieces.end && whole.used == pieces.used && whole.length == pieces.length);
    must(memcmp(whole.body, pieces.body, whole.length) == 0);
    must(whole.reason == NULL || strcmp(whole.reason, pieces.reason) == 0);
    size_t plain = plain_length(data, size);
    must(plain == 0 || (whole.end == CHUNK_END && whole.used == plain));
    if (whole.end == CHUNK_END)
        check_accepted(data, whole.used, &whole);
    free(whole.body);
    free(pieces.body);
    return 0;
}
