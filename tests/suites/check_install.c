/* check_install.c: what `make install` puts in place, used the way a stranger would.
 *
 * The nested make is given the variables of the one that runs this suite (MAKEFLAGS), so it
 * finds everything built.
 */
#include "harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

SUITE();

static const char *const installed[] = {
    "bin/hangupd",
    "include/hangupd/cleanup.h",
    "include/hangupd/handler.h",
    "include/hangupd/server.h",
    "lib/libhangupd.a",
    "lib/pkgconfig/hangupd.pc",
    "share/doc/hangupd/examples/hangupd-nowait.socket",
    "share/doc/hangupd/examples/hangupd-nowait@.service",
    "share/doc/hangupd/examples/hangupd.service",
    "share/doc/hangupd/examples/hangupd.socket",
    "share/doc/hangupd/examples/haproxy.cfg",
    "share/doc/hangupd/examples/inetd.conf",
    "share/doc/hangupd/examples/nginx.conf",
    "share/doc/hangupd/examples/xinetd.conf",
    "share/man/man8/hangupd.8",
};

static struct output shell(const char *command)
{
    return run_argv((const char *const[]){"/bin/sh", "-ec", command, NULL}, NULL, true);
}

#define must_run(...)                                                                              \
    do {                                                                                           \
        char command_[4096];                                                                       \
        snprintf(command_, sizeof command_, __VA_ARGS__);                                          \
        struct output o_ = shell(command_);                                                        \
        must_say(o_.status == 0, "%s: %s", command_, o_.text);                                     \
        free(o_.text);                                                                             \
    } while (0)

/* `make GOAL` with VARIABLES, in the source's directory. */
static void make(const char *goal, const char *variables)
{
    must_run("make --no-print-directory -C '%s/..' %s %s", getenv("TESTS"), goal, variables);
}

static const char *environment(const char *name, const char *otherwise)
{
    const char *value = getenv(name);
    return value != NULL && *value != '\0' ? value : otherwise;
}

TEST(tree_below_destdir)
{
    char variables[2048], expected[4096] = "";
    snprintf(variables, sizeof variables, "DESTDIR=%s PREFIX=/opt/it", at("root"));
    make("install", variables);
    for (int i = 0; i < COUNT(installed); i++) {
        strcat(expected, installed[i]);
        strcat(expected, "\n");
    }
    struct output found = shell("cd root/opt/it; find . -type f | sed 's,^[.]/,,' | LC_ALL=C sort");
    ck_assert_str_eq(found.text, expected);
    free(found.text);
    must_run("grep -q '^prefix=/opt/it$' root/opt/it/lib/pkgconfig/hangupd.pc");
    must_run("root/opt/it/bin/hangupd --version");
    must_run("diff -r root/opt/it/share/doc/hangupd/examples '%s/deploy'", getenv("TESTS"));

    make("uninstall", variables);
    struct output left = shell("find root -not -type d; find root -name hangupd");
    ck_assert_str_eq(left.text, "");
    free(left.text);
}

/* The example in server.h, compiled as a stranger's program would be, in C and in C++, and asked
 * over HTTP. */
TEST_TIMES(ten_lines_are_a_server, 2)
{
    char variables[1024];
    const char *c = environment("CC", "cc");
    const char *cxx =
        strstr(c, "clang") != NULL ? "clang++" : "g++"; /* it has the sanitizers, too */
    const char *sanitizers = environment("SAN", "");
    snprintf(variables, sizeof variables, "PREFIX=%s", at("prefix"));
    make("install", variables);
    must_run("sed -n 's/^ [*]     //p' prefix/include/hangupd/server.h >ten.c; grep -q main ten.c");
    must_run("PKG_CONFIG_PATH=prefix/lib/pkgconfig; export PKG_CONFIG_PATH; "
             "%s -Wall -Wextra -Wpedantic -Werror %s%s -o ten -x %s ten.c -x none "
             "$(pkg-config --cflags --libs hangupd)",
             _i == 0 ? c : cxx, *sanitizers != '\0' ? "-fsanitize=" : "", sanitizers,
             _i == 0 ? "c -std=c11" : "c++ -std=c++20 -Wno-missing-field-initializers");

    struct server *s = server_start(at("ten"), "%s", "");
    struct output o = curl(s, "/hello");
    ck_assert_int_eq(o.status, 0);
    ck_assert_str_eq(o.text, "hello\n");
    free(o.text);
    server_stop(s);
}

/* Each header can be included alone, and says nothing that -pedantic refuses. */
TEST(headers_stand_alone)
{
    char variables[1024];
    snprintf(variables, sizeof variables, "PREFIX=%s", at("prefix"));
    make("install", variables);
    for (int i = 0; i < COUNT(installed); i++)
        if (strncmp(installed[i], "include/", 8) == 0)
            must_run("echo '#include <%s>' | %s -std=c11 -Wall -Wextra -Wpedantic -Werror "
                     "-Iprefix/include -fsyntax-only -x c -",
                     installed[i] + 8, environment("CC", "cc"));
}

/* Install, and write the manual page to `plain`: "\-" is how it spells the '-' that can be copied.
 */
static void install_and_read_page(void)
{
    char variables[1024];
    snprintf(variables, sizeof variables, "PREFIX=%s", at("prefix"));
    make("install", variables);
    must_run(
        "sed 's/\\\\-/-/g; s/\\\\&//g; s/\\\\e/\\\\/g' prefix/share/man/man8/hangupd.8 >plain");
}

/* Fails unless every line of FILE stands in the page. */
static void must_be_in_page(const char *file)
{
    must_run("while read -r word; do "
             "    grep -qwF -e \"$word\" plain || { echo \"no $word in the page\"; exit 1; }; "
             "done <%s",
             file);
}

TEST(manual_page_says_what_help_says)
{
    install_and_read_page();
    must_run(
        "for command in '' undo recover status; do "
        "    prefix/bin/hangupd $command --help >words; grep -q . words; cat words; "
        "done >help; "
        "grep -o -e '--[a-z][a-z-]*' help | sort -u >options; grep -q -e --undo-timeout options; "
        "sed -n 's/^  hangupd undo \\([a-z-]*\\).*/\\1/p' help | sort -u >verbs; "
        "grep -q rmtree verbs");
    must_be_in_page("options");
    must_be_in_page("verbs");
    must_run("grep -q '^[.]TH HANGUPD 8' plain");
    must_run("grep -q '%s' plain", at("prefix/share/doc/hangupd/examples"));
}

/* What a program finds in its environment is in the page, each variable by its name. */
TEST(manual_page_names_every_variable)
{
    install_and_read_page();
    file_write(at("show"), "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\n'\n"
                           "env | sed -n 's/^\\([A-Z_]*\\)=.*/\\1/p'\n");
    must(chmod(at("show"), 0755) == 0);
    struct server *s = server_start(at("prefix/bin/hangupd"), "/show/=%s", at("show"));
    struct output o = curl(s, "-f -d body /show/more?x");
    ck_assert_int_eq(o.status, 0);
    file_write(at("all"), o.text);
    free(o.text);
    server_stop(s);
    must_run("env | sed -n 's/^\\([A-Z_]*\\)=.*/\\1/p' >ours; printf 'PWD\\n_\\nOLDPWD\\nSHLVL\\n' "
             ">>ours; "
             "grep -vxF -f ours all | grep -v ^HTTP_ | cat - >variables; "
             "printf 'TMPDIR\\nHANGUPD\\n' >>variables; "
             "for name in PATH_INFO CONTENT_LENGTH REMOTE_PORT REQUEST_ID UNDO_FD; do "
             "    grep -qx $name variables; done");
    must_be_in_page("variables");
}

TEST(manual_page_renders_without_warnings)
{
    struct output there = shell("command -v groff || true");
    if (*there.text == '\0') {
        test_skipped("groff", "it is not installed");
        return;
    }
    free(there.text);
    install_and_read_page();
    struct output o = shell("groff -man -ww -Tutf8 -z prefix/share/man/man8/hangupd.8 2>&1");
    must_say(o.status == 0 && *o.text == '\0', "%s", o.text);
    free(o.text);
}
