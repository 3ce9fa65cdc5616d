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
#include <unistd.h>

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
    "share/doc/hangupd/examples/hangupd-recover.service",
    "share/doc/hangupd/examples/hangupd.cron",
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

/* What a program needs to be linked with the installed library: for $(...) of a shell. */
#define FROM_PKG_CONFIG                                                                            \
    "$(PKG_CONFIG_PATH=prefix/lib/pkgconfig pkg-config --static --cflags --libs hangupd)"

static void install_prefix(void)
{
    char variables[1024];
    snprintf(variables, sizeof variables, "PREFIX=%s", at("prefix"));
    make("install", variables);
}

/* The compiler, with the sanitizers of this build. */
static const char *compiler(void)
{
    static char words[256];
    const char *sanitizers = environment("SAN", "");
    snprintf(words, sizeof words, "%s -Wall -Werror %s%s", environment("CC", "cc"),
             *sanitizers != '\0' ? "-fsanitize=" : "", sanitizers);
    return words;
}

/* Nothing but the API can be seen, so that nothing else can clash, or be replaced. */
TEST(library_shows_its_api_alone)
{
    install_prefix();
    must_run(
        "nm -g --defined-only prefix/lib/libhangupd.a | sed -n 's/^[0-9a-f]* . //p' | sort >shown; "
        "cat prefix/include/hangupd/*.h | grep -v ^typedef | "
        "sed -n 's/^[a-z].*[ *]\\([a-z_]*\\)(.*/\\1/p' | sort >declared; "
        "grep -qx server_main shown; diff declared shown; "
        "if grep -vE '^((server|handler|request|respond|cleanup|testing|route)_|respond$)' "
        "shown; then exit 1; fi");
}

/* A program has functions with the names of ours inside, which work: its own are called by it, and
 * ours by us. */
TEST(programs_names_are_its_own)
{
    install_prefix();
    file_write(
        at("own.c"),
        "#include <hangupd/server.h>\n#include <stdio.h>\n"
        "int write_all(void); int parse_size(void); int cleanup_begin(void);\n"
        "int write_all(void) { return 1; } int parse_size(void) { return 2; }\n"
        "int cleanup_begin(void) { return 3; } int program_name = 4, log_sink = 5;\n"
        "int handler_serve = 6; void undo(void); void undo(void) {}\n"
        "static int sum(struct request *rq) {\n"
        "    return respond_text(rq, 200, \"%d\\n\", write_all() + parse_size() +\n"
        "                        cleanup_begin() + program_name + log_sink + "
        "handler_serve); }\n"
        "int main(int argc, char **argv) {\n"
        "    static const struct route routes[] = {{.path = \"/sum\", .handler = sum}, {0}};\n"
        "    return server_main(argc, argv, routes); }\n");
    must_run("%s -o own own.c " FROM_PKG_CONFIG, compiler());
    struct server *s = server_start(at("own"), "%s", "");
    struct output o = curl(s, "/sum");
    ck_assert_str_eq(o.text, "21\n");
    free(o.text);
    server_stop(s);
}

/* It is no program by itself, and can be a part of a shared library. */
TEST(library_has_no_main_and_can_lie_anywhere)
{
    install_prefix();
    file_write(at("part.c"), "#include <hangupd/server.h>\n"
                             "int part(void);\nint part(void) { return server_main(0, 0, 0); }\n");
    must_run("! %s -o whole part.c " FROM_PKG_CONFIG " 2>wrong; grep -q main wrong", compiler());
    must_run("%s -fPIC -shared -o part.so part.c " FROM_PKG_CONFIG, compiler());
}

/* It can be linked statically, where the C library can. */
TEST(static_program_works)
{
    struct output o = shell("echo 'int main(void) { return 0; }' | cc -static -x c -o nothing -");
    free(o.text);
    if (o.status != 0 || *environment("SAN", "") != '\0') {
        test_skipped("static", "there is no static C library, or there are sanitizers");
        return;
    }
    install_prefix();
    must_run("sed -n 's/^ [*]     //p' prefix/include/hangupd/server.h >ten.c; "
             "%s -static -o ten ten.c " FROM_PKG_CONFIG " 2>&1 | tee said; [ ! -s said ]; "
             "./ten --version",
             compiler());
}

/* The headers say which version they are of, and the program says the same. */
TEST(version_is_in_the_headers)
{
    install_prefix();
    for (int i = 0; i < COUNT(installed); i++)
        if (strncmp(installed[i], "include/", 8) == 0)
            must_run(
                "printf '#include <%s>\nHANGUPD_VERSION HANGUPD_VERSION_NUMBER\n' | "
                "%s -E -P -Iprefix/include - | tail -n 1 >version; "
                "prefix/bin/hangupd --version | "
                "sed 's/hangupd \\([0-9]*\\)[.]\\(.*\\)/\\1 \\2/' | "
                "{ read -r first second; "
                "echo \"\\\"$first.$second\\\" $((first * 1000 + second))\"; } | diff - version",
                installed[i] + 8, environment("CC", "cc"));
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
        "for command in '' undo recover status stop; do "
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

/* Who may not install gets the line for somebody who may. */
TEST(missing_package_is_a_line_to_paste)
{
    if (only_for_root("missing_package_is_a_line_to_paste"))
        return;
    if (shell("command -v apt-get >/dev/null || echo none").length > 0) {
        test_skipped("missing_package_is_a_line_to_paste", "no apt-get here");
        return;
    }
    must_run("cp '%s/tools/need.sh' . && chmod 755 need.sh . && ln -sf /bin/false sudo",
             getenv("TESTS"));
    must(setgid(65534) == 0 && setuid(65534) == 0);
    struct output o = shell("PATH=.:$PATH ./need.sh no-such-package-at-all");
    must_say(o.status == 1 && strstr(o.text, "\nsudo apt-get install --no-install-recommends "
                                             "no-such-package-at-all\n"),
             "%d: %s", o.status, o.text);
    free(o.text);
}
