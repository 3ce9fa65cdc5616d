/* fault_soak.c: many requests of all kinds, of which nearly a third hang up, on one server. What it
 * takes must stay as it is: memory, descriptors, processes, ledgers. It is measured when nothing is
 * in flight, ten times; the first is the warm-up. And the world must equal the answers.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "callers.h"

static long requests = 100000, limit_s = 900, callers = 60, seed;

#define ROUNDS 10
#define PSS_TOLERANCE_KB 32

static const struct callers_plan kinds = {
    .hangups = 58, /* of which about half leave before their answer has come */
    .work_ms = 8,
    .weights = {[KIND_MADE] = 14,
                [KIND_OVER] = 6,
                [KIND_TAKEN] = 4,
                [KIND_TREE] = 4,
                [KIND_CLOUD] = 2,
                [KIND_STREAMED] = 4,
                [KIND_DAEMONS] = 1,
                [KIND_BAD] = 4,
                [KIND_POSTED] = 10,
                [KIND_PLAIN] = 50,
                [KIND_PROGRAM] = 1},
    .undisturbed = true,
};

/* Until COUNT requests have been made in all, or time is up. */
static void go_on(struct server *s, unsigned long count, int64_t until)
{
    while (tally.requests < count && now_ms() < until) {
        callers_go(50);
        log_mark(s);
    }
}

static void compare(struct gauge first, struct gauge last)
{
    must_say(last.pss_kb <= first.pss_kb + PSS_TOLERANCE_KB, "the server has grown by %ld kB",
             last.pss_kb - first.pss_kb);
    must(last.descriptors == first.descriptors);
}

TEST(soak)
{
    struct rlimit files = {65536, 65536};
    struct callers_plan plan = kinds;
    struct gauge g, first = {0};
    plan.seed = (uint64_t)seed;
    plan.count = (unsigned)callers;
    setrlimit(RLIMIT_NOFILE, &files);
    struct server *s = server_start(callers_program(), "--requests 32 --queue-timeout 120");
    callers_begin(&plan, s->port);
    int64_t begin = now_ms();
    for (int round = 1; round <= ROUNDS; round++) {
        int64_t until = begin + limit_s * 1000 * round / ROUNDS;
        go_on(s, (unsigned long)(requests * round / ROUNDS), until);
        g = callers_settled(s);
        callers_resume();
        if (round == 1)
            first = g;
        printf("soak: after %lu requests: PSS %ld kB, %u descriptors, %u processes, %u ledgers\n",
               tally.requests, g.pss_kb, g.descriptors, g.children, g.ledgers);
    }
    server_stop(s);
    callers_check_world();
    printf("soak: seed %ld, %lld s, %lu requests (%lu answered, %lu answered and then reset, %lu "
           "refused, %lu hung up, %lu broken off, %lu of a starved caller), PSS %ld to %ld kB, %u "
           "to %u descriptors, %lu "
           "violations\n",
           seed, (long long)(now_ms() - begin) / 1000, tally.requests, tally.kept, tally.doubt,
           tally.refused, tally.hung_up, tally.broken, tally.given_up, first.pss_kb, g.pss_kb,
           first.descriptors, g.descriptors, tally.violations);
    fflush(stdout);
    compare(first, g);
    must(tally.kept > 0 && tally.hung_up > 0 && tally.refused > 0);
    ck_assert_uint_eq(tally.violations, 0);
}

/* -------------------------------------------------------------------------------------------- */

static void parse(int argc, char **argv)
{
    static const struct option known[] = {
        {"requests", required_argument, NULL, 'n'}, {"seconds", required_argument, NULL, 's'},
        {"callers", required_argument, NULL, 'c'},  {"seed", required_argument, NULL, 'r'},
        {"brief", no_argument, NULL, 'b'},          {0}};
    seed = (long)(now_ms() % 1000000);
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (c == 'n')
            requests = atol(optarg);
        else if (c == 's')
            limit_s = atol(optarg);
        else if (c == 'c')
            callers = atol(optarg);
        else if (c == 'r')
            seed = atol(optarg);
        else if (c == 'b')
            limit_s = 40;
        else
            exit(2);
    }
    suite_seconds = (double)limit_s + 300;
}

SUITE(.start = parse);
