/* check_smuggling.c: requests whose end two readers may see in two places. Whatever the server
 * makes of one, what stands behind it must never be taken for a request of its own: either the
 * connection ends, or the next request on it is served as if nothing had been.
 *
 * Each vector is a head, of one request, and a body that looks like a request for /smuggled. Then
 * comes an ordinary request, and the end of the client's side.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "harness.h"

SUITE();

#define HIDDEN "GET /who?smuggled HTTP/1.1\r\nHost: test\r\n\r\n"
#define NEXT "GET /who?next HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
#define POST "POST /echo HTTP/1.1\r\nHost: test\r\n"
#define GET "GET /who HTTP/1.1\r\nHost: test\r\n"
#define CHUNKED "Transfer-Encoding: chunked\r\n"
#define END "0\r\n\r\n"

/* %Z: the length of HIDDEN; %T: that of END and HIDDEN; %0: a NUL. */
static const struct vector {
    const char *name, *bytes;
} vectors[] = {
    /* Two lengths (RFC 9112 section 6.3). */
    {"CL and TE", POST "Content-Length: %T\r\n" CHUNKED "\r\n" END HIDDEN},
    {"TE and CL", POST CHUNKED "Content-Length: %T\r\n\r\n" END HIDDEN},
    {"short CL and TE", POST "Content-Length: 5\r\n" CHUNKED "\r\n" END HIDDEN},
    {"CL 0 and TE", POST "Content-Length: 0\r\n" CHUNKED "\r\n2a\r\n" HIDDEN "\r\n" END},
    {"CL 0 and CL", POST "Content-Length: 0\r\nContent-Length: %Z\r\n\r\n" HIDDEN},
    {"CL and CL 0", POST "Content-Length: %Z\r\nContent-Length: 0\r\n\r\n" HIDDEN},
    {"CL list", POST "Content-Length: 0, %Z\r\n\r\n" HIDDEN},
    {"CL list the other way", POST "Content-Length: %Z, 0\r\n\r\n" HIDDEN},
    {"CL and CL by another name", POST "Content-Length: %Z\r\nContent_Length: 0\r\n\r\n" HIDDEN},
    /* Lengths that are none. */
    {"CL +", POST "Content-Length: +%Z\r\n\r\n" HIDDEN},
    {"CL -", POST "Content-Length: -%Z\r\n\r\n" HIDDEN},
    {"CL in hex", POST "Content-Length: 0x2a\r\n\r\n" HIDDEN},
    {"CL with an exponent", POST "Content-Length: 4e1\r\n\r\n" HIDDEN},
    {"CL with a point", POST "Content-Length: %Z.0\r\n\r\n" HIDDEN},
    {"CL in two words", POST "Content-Length: %Z 0\r\n\r\n" HIDDEN},
    {"CL in quotes", POST "Content-Length: \"%Z\"\r\n\r\n" HIDDEN},
    {"CL empty", POST "Content-Length:\r\n\r\n" HIDDEN},
    {"CL of 2^64", POST "Content-Length: 18446744073709551616\r\n\r\n" HIDDEN},
    {"CL of 2^64 and more", POST "Content-Length: 18446744073709551658\r\n\r\n" HIDDEN},
    {"CL after a vertical tab", POST "Content-Length:\v%Z\r\n\r\n" HIDDEN},
    {"CL before a NUL", POST "Content-Length: %Z%0\r\n\r\n" HIDDEN},
    {"space before the colon of CL", POST "Content-Length : %Z\r\n\r\n" HIDDEN},
    {"tab before the colon of CL", POST "Content-Length\t: %Z\r\n\r\n" HIDDEN},
    {"space before CL", POST " Content-Length: %Z\r\n\r\n" HIDDEN},
    {"CL folded", POST "Content-Length:\r\n %Z\r\n\r\n" HIDDEN},
    {"CL folded in its middle", POST "Content-Length: 0\r\n %Z\r\n\r\n" HIDDEN},
    {"CL in a folded line", POST "X: y\r\n Content-Length: %Z\r\n\r\n" HIDDEN},
    {"CL that Connection names",
     POST "Connection: Content-Length\r\nContent-Length: %Z\r\n\r\n" HIDDEN},
    /* Codings that are not quite chunked. */
    {"TE xchunked", POST "Content-Length: %T\r\nTransfer-Encoding: xchunked\r\n\r\n" END HIDDEN},
    {"TE chunkedx", POST "Transfer-Encoding: chunkedx\r\n\r\n" END HIDDEN},
    {"TE identity", POST "Content-Length: %T\r\nTransfer-Encoding: identity\r\n\r\n" END HIDDEN},
    {"TE chunked, identity", POST "Transfer-Encoding: chunked, identity\r\n\r\n" END HIDDEN},
    {"TE identity, chunked", POST "Transfer-Encoding: identity, chunked\r\n\r\n" END HIDDEN},
    {"TE chunked twice", POST CHUNKED CHUNKED "\r\n" END HIDDEN},
    {"TE chunked, chunked", POST "Transfer-Encoding: chunked, chunked\r\n\r\n" END HIDDEN},
    {"TE gzip, chunked", POST "Transfer-Encoding: gzip, chunked\r\n\r\n" END HIDDEN},
    {"TE chunked, then cow", POST CHUNKED "Transfer-Encoding: cow\r\n\r\n" END HIDDEN},
    {"TE cow, then chunked", POST "Transfer-Encoding: cow\r\n" CHUNKED "\r\n" END HIDDEN},
    {"TE in quotes", POST "Transfer-Encoding: \"chunked\"\r\n\r\n" END HIDDEN},
    {"TE with a parameter", POST "Transfer-Encoding: chunked;a=b\r\n\r\n" END HIDDEN},
    {"TE empty", POST "Content-Length: %T\r\nTransfer-Encoding:\r\n\r\n" END HIDDEN},
    {"TE of a comma", POST "Content-Length: %T\r\nTransfer-Encoding: ,\r\n\r\n" END HIDDEN},
    {"space before the colon of TE", POST "Transfer-Encoding : chunked\r\n\r\n" END HIDDEN},
    {"space before TE", POST " Transfer-Encoding: chunked\r\n\r\n" END HIDDEN},
    {"TE folded", POST "Transfer-Encoding:\r\n chunked\r\n\r\n" END HIDDEN},
    {"TE in a folded line", POST "X: y\r\n Transfer-Encoding: chunked\r\n\r\n" END HIDDEN},
    {"TE after a vertical tab", POST "Transfer-Encoding:\vchunked\r\n\r\n" END HIDDEN},
    {"TE before a form feed", POST "Transfer-Encoding: chunked\f\r\n\r\n" END HIDDEN},
    {"TE before a NUL", POST "Transfer-Encoding: chunked%0\r\n\r\n" END HIDDEN},
    {"TE before a bare CR", POST "Transfer-Encoding: chunked\rX: y\r\n\r\n" END HIDDEN},
    {"TE behind a bare CR", POST "X: y\rTransfer-Encoding: chunked\r\n\r\n" END HIDDEN},
    {"TE behind a bare LF",
     POST "Content-Length: %T\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n" END HIDDEN},
    {"TE by another name",
     POST "Content-Length: %T\r\nTransfer_Encoding: chunked\r\n\r\n" END HIDDEN},
    {"TE of HTTP/1.0",
     "POST /echo HTTP/1.0\r\nConnection: keep-alive\r\n" CHUNKED "\r\n" END HIDDEN},
    {"TE and CL of HTTP/1.0", "POST /echo HTTP/1.0\r\nConnection: keep-alive\r\n"
                              "Content-Length: %T\r\n" CHUNKED "\r\n" END HIDDEN},
    /* Chunks that are none. */
    {"chunk of 2^64", POST CHUNKED "\r\n10000000000000000\r\n" HIDDEN},
    {"chunk of 2^64 and more", POST CHUNKED "\r\n1000000000000002a\r\n" HIDDEN "\r\n" END},
    {"chunk of 0x", POST CHUNKED "\r\n0x2a\r\n" HIDDEN "\r\n" END},
    {"chunk of +", POST CHUNKED "\r\n+2a\r\n" HIDDEN "\r\n" END},
    {"chunk of -", POST CHUNKED "\r\n-1\r\n" HIDDEN},
    {"chunk of nothing", POST CHUNKED "\r\n\r\n" HIDDEN},
    {"chunk before a space", POST CHUNKED "\r\n2a \r\n" HIDDEN "\r\n" END},
    {"chunk after a space", POST CHUNKED "\r\n 2a\r\n" HIDDEN "\r\n" END},
    {"chunk line ended by LF", POST CHUNKED "\r\n0\n\r\n" HIDDEN},
    {"chunk line ended by CR", POST CHUNKED "\r\n0\r\r\n" HIDDEN},
    {"chunks ended by LF LF", POST CHUNKED "\r\n0\n\n" HIDDEN},
    {"chunks ended by CR CR", POST CHUNKED "\r\n0\r\r" HIDDEN},
    {"chunk without its end", POST CHUNKED "\r\n1\r\na0\r\n\r\n" HIDDEN},
    {"chunk with another end", POST CHUNKED "\r\n1\r\naXX0\r\n\r\n" HIDDEN},
    {"chunk longer than it says", POST CHUNKED "\r\n1\r\naa\r\n0\r\n\r\n" HIDDEN},
    {"chunk extension with LF", POST CHUNKED "\r\n2a;x\n" HIDDEN "\r\n" END},
    {"chunk extension with CR", POST CHUNKED "\r\n0;\r\r\n\r\n" HIDDEN},
    {"chunk extension with a NUL", POST CHUNKED "\r\n0;%0\r\n\r\n" HIDDEN},
    {"trailer without a colon", POST CHUNKED "\r\n0\r\nGET /who HTTP/1.1\r\n\r\n" HIDDEN},
    {"trailer with LF", POST CHUNKED "\r\n0\r\nX: y\n\n" HIDDEN},
    /* Lines that end in two places. */
    {"bare CR in a value", GET "X: y\r\r\n\r" HIDDEN},
    {"bare CRs for an end", GET "X: y\r\r" HIDDEN},
    {"bare LFs for an end", GET "X: y\n\n" HIDDEN},
    {"CR CR LF for an end", GET "X: y\r\n\r\r\n" HIDDEN},
    {"bare LF in a value", GET "X: y\nGET /who?smuggled HTTP/1.1\r\n\r\n"},
    {"bare CR before a request line", GET "X: y\rGET /who?smuggled HTTP/1.1\r\n\r\n"},
    {"NUL in a value", GET "X: y%0\r\n\r\n" HIDDEN},
    {"NUL in a name", GET "X%0: y\r\n\r\n" HIDDEN},
    {"NUL in the target", "GET /who%0 HTTP/1.1\r\nHost: test\r\n\r\n" HIDDEN},
    {"NUL for an end", GET "X: y\r\n%0\r\n" HIDDEN},
    {"line without a colon", GET "nothing\r\n\r\n" HIDDEN},
    {"line of a colon", GET ": y\r\n\r\n" HIDDEN},
    {"line of a space", GET " \r\n\r\n" HIDDEN},
    {"space before the first field", "GET /who HTTP/1.1\r\n Host: test\r\n\r\n" HIDDEN},
    {"request line in two", "GET /who\r\n HTTP/1.1\r\nHost: test\r\n\r\n" HIDDEN},
    {"request line by LF", "GET /who HTTP/1.1\nHost: test\r\n\r\n" HIDDEN},
    {"target with CR", "GET /who\rX HTTP/1.1\r\nHost: test\r\n\r\n" HIDDEN},
    {"HTTP/0.9", "GET /who\r\n" HIDDEN},
    {"HTTP/2", "GET /who HTTP/2.0\r\nHost: test\r\n\r\n" HIDDEN},
    {"two hosts", "GET /who HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" HIDDEN},
    /* Bodies that nobody reads, or expects. */
    {"body of GET", GET "Content-Length: %Z\r\n\r\n" HIDDEN},
    {"chunked body of GET", GET CHUNKED "\r\n2a\r\n" HIDDEN "\r\n" END},
    {"body of HEAD", "HEAD /who HTTP/1.1\r\nHost: test\r\nContent-Length: %Z\r\n\r\n" HIDDEN},
    {"body of OPTIONS", "OPTIONS /who HTTP/1.1\r\nHost: test\r\nContent-Length: %Z\r\n\r\n" HIDDEN},
    {"body of OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: test\r\nContent-Length: %Z\r\n\r\n" HIDDEN},
    {"body of 404", "POST /nothing HTTP/1.1\r\nHost: test\r\nContent-Length: %Z\r\n\r\n" HIDDEN},
    {"chunked body of 404",
     "POST /nothing HTTP/1.1\r\nHost: test\r\n" CHUNKED "\r\n2a\r\n" HIDDEN "\r\n" END},
    {"body of 405", "POST /who HTTP/1.1\r\nHost: test\r\nContent-Length: %Z\r\n\r\n" HIDDEN},
    {"body of 501", "BREW /who HTTP/1.1\r\nHost: test\r\nContent-Length: %Z\r\n\r\n" HIDDEN},
    {"body of CONNECT",
     "CONNECT test:80 HTTP/1.1\r\nHost: test\r\nContent-Length: %Z\r\n\r\n" HIDDEN},
    {"CONNECT", "CONNECT test:80 HTTP/1.1\r\nHost: test\r\n\r\n" HIDDEN},
    {"body over the limit", POST "Content-Length: 5000\r\n\r\n" HIDDEN},
    {"body that was expected", POST "Expect: 100-continue\r\nContent-Length: %Z\r\n\r\n" HIDDEN},
    {"body and another expectation", POST "Expect: payment\r\nContent-Length: %Z\r\n\r\n" HIDDEN},
    {"Upgrade with a body",
     POST "Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: %Z\r\n\r\n" HIDDEN},
    {"Upgrade to a websocket", GET "Connection: upgrade\r\nUpgrade: websocket\r\n"
                                   "Content-Length: %Z\r\n\r\n" HIDDEN},
    {"a handler that fails with the body unread",
     "POST /ignore-body?path=/nowhere/file HTTP/1.1\r\nHost: test\r\nContent-Length: "
     "%Z\r\n\r\n" HIDDEN},
};

/* The vector's bytes: their number. */
static size_t spelled(const char *text, char *to)
{
    char *start = to;
    for (; *text; text++) {
        bool code = *text == '%' && text[1] != '\0';
        if (!code)
            *to++ = *text;
        else if (*++text == '0')
            *to++ = '\0';
        else
            to += sprintf(to, "%zu", sizeof(HIDDEN) - 1 + (*text == 'T' ? sizeof(END) - 1 : 0));
    }
    return (size_t)(to - start);
}

/* All on one server, so that one vector could also spoil the next. */
TEST(what_is_hidden_is_not_served)
{
    struct server *s = things("--max-body 4096 --header-timeout 2 --body-timeout 2");
    for (int i = 0; i < COUNT(vectors); i++) {
        char bytes[4096];
        size_t n = spelled(vectors[i].bytes, bytes);
        int c = dial(s);
        log_mark(s);
        say_bytes(c, bytes, n);
        (void)!send(c, NEXT, strlen(NEXT), MSG_NOSIGNAL); /* it may have been thrown out already */
        shutdown(c, SHUT_WR);
        struct heard h = hear(c);
        close(c);
        log_wait(s, "\"");
        must(hear_answer(get(s, "/who?after"), false).status == 200);
        log_wait(s, "\"GET /who?after");
        must_say(!log_has(s, "\"GET /who?smuggled") && !strstr(h.text, "query smuggled"),
                 "%s: the hidden request was served: %s", vectors[i].name, h.text);
        must_say(h.status >= 200, "%s: no answer: %s", vectors[i].name, h.text);
    }
    server_stop(s);
}

/* The lengths in the vectors are right: with the ambiguity taken away, what is hidden is a body. */
TEST(what_is_a_body_is_a_body)
{
    struct server *s = things("%s", "");
    int c = dial(s);
    say(c, POST "Content-Length: %zu\r\n\r\n" HIDDEN NEXT, strlen(HIDDEN));
    struct heard h = hear(c);
    must_say(strstr(h.text, HIDDEN) && strstr(h.text, "query next"), "%s", h.text);
    c = dial(s);
    say(c, POST CHUNKED "\r\n2a\r\n" HIDDEN "\r\n" END NEXT);
    h = hear(c);
    must_say(strstr(h.text, HIDDEN) && strstr(h.text, "query next"), "%s", h.text);
    server_stop(s);
}
