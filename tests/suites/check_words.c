/* check_words.c: the words of the command line: durations, sizes and routes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "routes.h"
#include "serve.h"
#include "suite.h"

SUITE(.bare = true);

/* ---- Words of the command line ----------------------------------------------------------- */

THEME("words");

TEST(durations)
{
    static const struct {
        const char *text;
        int64_t ms;
    } cases[] = {
        {"0", 0},
        {"1", 1000},
        {"1.5", 1500},
        {"0.5", 500},
        {".5", 500},
        {"90s", 90000},
        {"250ms", 250},
        {"15m", 900000},
        {"2h", 7200000},
        {"1.5h", 5400000},
        {"0.0001", 1},
        {"0.0006s", 1},
        {"2147483647ms", INT32_MAX},
        {"3600", 3600000},
        {"", -1},
        {".", -1},
        {"s", -1},
        {"-1", -1},
        {"+1", -1},
        {" 1", -1},
        {"1 ", -1},
        {"1 s", -1},
        {"1d", -1},
        {"1S", -1},
        {"1sm", -1},
        {"1.2.3", -1},
        {"2147483648ms", -1},
        {"1000h", -1},
        {"nan", -1},
        {"inf", -1},
        {"1,5", -1},
        {"0x10", -1},
        {"1e3", -1},
        {"99999999999999999999999999", -1},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        ck_assert_msg(parse_duration(cases[i].text) == cases[i].ms, "%s: %lld", cases[i].text,
                      (long long)parse_duration(cases[i].text));
}

TEST(sizes)
{
    static const struct {
        const char *text;
        int64_t bytes;
    } cases[] = {
        {"0", 0},
        {"1", 1},
        {"64k", 65536},
        {"64K", 65536},
        {"1M", 1048576},
        {"3m", 3145728},
        {"2G", 2147483648},
        {"2g", 2147483648},
        {"4G", 4294967296},
        {"5000000000", 5000000000},
        {"100G", 107374182400},
        {"", -1},
        {"k", -1},
        {"-1", -1},
        {"+1", -1},
        {" 1", -1},
        {"1 ", -1},
        {"1T", -1},
        {"1kB", -1},
        {"1kk", -1},
        {"1.5M", -1},
        {"0x10", -1},
        {"1\x0b", -1},
        {"99999999999999999999", -1},
        {"9999999999999G", -1},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        ck_assert_msg(parse_size(cases[i].text) == cases[i].bytes, "%s: %lld", cases[i].text,
                      (long long)parse_size(cases[i].text));
}

static int nothing(struct request *rq)
{
    (void)rq;
    return 0;
}

static const struct route compiled[] = {
    {.path = "/one", .handler = nothing, .name = "one", .methods = "POST", .timeout_ms = 5},
    {.path = "/anonymous", .handler = nothing},
    {.path = "/two", .handler = handler_demonstration, .name = "two"},
    {0},
};

static const char *route_text(const char *text)
{
    static char line[256];
    struct route r;
    char why[256] = "";
    if (route_parse(text, compiled, &r, why, sizeof why) < 0) {
        ck_assert_str_ne(why, "");
        return "refused";
    }
    snprintf(line, sizeof line, "%s %s %lld %d %d", r.path, r.name, (long long)r.timeout_ms,
             r.on_hangup, r.half_close);
    ck_assert(r.handler == (strcmp(r.name, "one") == 0 ? nothing : handler_demonstration));
    free((char *)r.path);
    return line;
}

TEST(routes)
{
    static const char *const cases[][2] = {
        {"/a=@one", "/a one 5 0 0"},
        {"/a/=@two", "/a/ two 0 0 0"},
        {"/a=@one,timeout=2m", "/a one 120000 0 0"},
        {"/a=@two,on-hangup=finish,half-close=hangup", "/a two 0 2 2"},
        {"/a=@two,on-hangup=undo,half-close=ignore", "/a two 0 1 3"},
        {"/a=@two,half-close=probe,timeout=250ms", "/a two 250 0 1"},
        {"", "refused"},
        {"/a", "refused"},
        {"/a=", "refused"},
        {"a=@one", "refused"},
        {"=@one", "refused"},
        {"/a=,timeout=1", "refused"},
        {"/a=@", "refused"},
        {"/a=@three", "refused"},
        {"/a=@On", "refused"},
        {"/a=@one,timeout", "refused"},
        {"/a=@one,timeout=", "refused"},
        {"/a=@one,timeout=x", "refused"},
        {"/a=@one,timeout=0", "refused"},
        {"/a=@one,on-hangup=default", "refused"},
        {"/a=@one,half-close=", "refused"},
        {"/a=@one,color=red", "refused"},
    };
    ck_assert_int_eq(HALF_CLOSE_HANGUP, 2);
    for (size_t i = 0; i < COUNT(cases); i++)
        ck_assert_msg(strcmp(route_text(cases[i][0]), cases[i][1]) == 0, "%s: %s", cases[i][0],
                      route_text(cases[i][0]));
}

TEST(routes_say_why)
{
    struct route r;
    char why[256];
    static const char *const cases[][2] = {
        {"/a=@three", "@one @two"},   {"/a=@one,color=red", "color"},
        {"/a=@one,timeout=x", "90s"}, {"/a=@one,on-hangup=x", "finish"},
        {"/a", "PATH=TARGET"},        {"/a=,,", "PATH=TARGET"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        ck_assert_int_eq(route_parse(cases[i][0], compiled, &r, why, sizeof why), -1);
        ck_assert_msg(strstr(why, cases[i][1]) != NULL, "%s: %s", cases[i][0], why);
        char small[8] = "1234567";
        ck_assert_int_eq(route_parse(cases[i][0], compiled, &r, small, 4), -1);
        ck_assert_uint_lt(strlen(small), 4);
        ck_assert_str_eq(small + 4, "567");
    }
}
