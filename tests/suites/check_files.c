/* check_files.c: files, trees and disks under a request's work. */
#include <fcntl.h>
#include <linux/filter.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

SUITE();

/* ---- Files --------------------------------------------------------------------------------- */

THEME("files");

TEST(second_caller_is_told_that_the_file_is_taken)
{
    struct server *s = things("%s", "");
    int first = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    struct heard h = hear_answer(get(s, "/make?path=%s", at("file")), false);
    must_say(h.status == 409 && strstr(h.text, at("file")) == NULL, "%s", h.text);
    log_wait(s, " could not create the file: %s: File exists", at("file"));
    log_wait(s, " 409 ");
    must(log_has(s, " error undo=none")); /* it has made nothing */
    must_say(exists(at("file")), "the second caller's undo took the first one's file");
    hang_up(first, BY_FIN);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}

TEST(file_that_was_there_stays)
{
    struct server *s = things("%s", "");
    file_write(at("file"), "old");
    struct output o = curl(s, "-o body -w %%{http_code} /make?path=%s", at("file"));
    must_say(o.status == 0 && strcmp(o.text, "409") == 0, "%s", o.text);
    log_wait(s, " 409 ");
    must(strcmp(file_read(at("file")), "old") == 0);
    server_stop(s);
}

/* The path is named that could not be made, and no other one. */
TEST(what_could_not_be_made_is_named)
{
    struct server *s = things("%s", "");
    must(hear_answer(get(s, "/make?path=%s", at("no/file")), false).status == 500);
    log_wait(s, " could not create the file: %s: No such file or directory", at("no/file"));
    log_wait(s, " error undo=none");
    server_stop(s);
}

TEST(two_overwriters_do_not_remove_each_others_file)
{
    struct server *s = things("%s", "");
    int first = get(s, "/over?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    log_mark(s);
    int second = get(s, "/over?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    close_fin(first);
    log_wait(s, " hangup undo=ok");
    must(exists(at("file")));
    log_mark(s);
    close_fin(second);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}

TEST_TIMES(foreign_file_that_took_the_name_stays, 2)
{
    struct server *s = things("%s", "");
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    if (_i) { /* the inode number may be used again */
        must(unlink(at("file")) == 0);
        file_write(at("file"), "foreign");
    } else {
        file_write(at("new"), "foreign");
        must(rename(at("new"), at("file")) == 0);
    }
    close_fin(c);
    log_wait(s, " hangup undo=");
    must(strcmp(file_read(at("file")), "foreign") == 0);
    server_stop(s);
}

TEST(foreign_directory_that_took_the_name_stays)
{
    struct server *s = things("%s", "");
    int c = get(s, "/tree?path=%s&seconds=60", at("tree"));
    wait_made(s, at("tree"));
    must(rename(at("tree"), at("elsewhere")) == 0 && mkdir(at("tree"), 0755) == 0);
    file_write(at("tree/one"), "foreign");
    close_fin(c);
    log_wait(s, " hangup undo=");
    must(strcmp(file_read(at("tree/one")), "foreign") == 0);
    server_stop(s);
}

TEST(tree_with_a_link_out_of_it)
{
    struct server *s = things("%s", "");
    must(mkdir(at("outside"), 0755) == 0);
    file_write(at("outside/precious"), "precious");
    int c = get(s, "/tree?path=%s&seconds=60", at("tree"));
    wait_made(s, at("tree"));
    must(symlink(at("outside"), at("tree/link")) == 0);
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("tree")) && exists(at("outside/precious")));
    server_stop(s);
}

TEST(undo_keeps_errors_of_400_and_more)
{
    static const int codes[] = {200, 201, 302, 400, 404, 418, 500, 503};
    struct server *s = things("%s", "");
    for (unsigned i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        int code = codes[i];
        struct heard h =
            hear_answer(get(s, "/status?code=%d&path=%s", code, at("f%d", code)), false);
        must_say(h.status == code && strstr(h.text, "as asked\n"), "%s", h.text);
        const char *line = log_wait(s, "/status?code=%d&", code);
        must_say(strstr(line, code < 400 ? " ok undo=none" : " error undo=ok"), "%s", line);
        must_say(exists(at("f%d", code)) == (code < 400), "%d", code);
    }
    server_stop(s);
}

TEST_TIMES(handler_without_an_answer_gets_500, 2)
{
    struct server *s = things("%s", "");
    static const char *const silent[] = {"silent", "fail"};
    struct heard h = hear_answer(get(s, "/%s?path=%s", silent[_i], at("file")), false);
    must_say(h.status == 500, "%s", h.text);
    log_wait(s, " error undo=ok");
    must(!exists(at("file")));
    server_stop(s);
}

TEST(directory_that_is_not_there)
{
    struct server *s = things("%s", "");
    struct heard h = hear_answer(get(s, "/make?path=%s", at("none/file")), false);
    must_say(h.status == 500 && strstr(h.text, "create the file"), "%s", h.text);
    log_wait(s, "No such file or directory");
    log_wait(s, " 500 ");
    server_stop(s);
}

TEST(directory_that_cannot_be_written)
{
    must(mkdir(at("locked"), 0555) == 0);
    struct server *s = things("%s", geteuid() == 0 ? "--user nobody" : "");
    struct heard h = hear_answer(get(s, "/make?path=%s", at("locked/file")), false);
    must_say(h.status == 500 && strstr(h.text, "create the file"), "%s", h.text);
    log_wait(s, "Permission denied");
    log_wait(s, " 500 ");
    must(is_empty(at("locked")));
    server_stop(s);
}

TEST(disk_that_is_full)
{
    if (!private_mounts() || !mount_small(at("disk"), "256k")) {
        test_skipped("disk_that_is_full", "mounting is not allowed here");
        return;
    }
    struct server *s = things("%s", "");
    struct heard h = hear_answer(get(s, "/full?path=%s&bytes=1000000", at("disk/file")), false);
    must_say(h.status == 507, "%s", h.text);
    log_wait(s, "No space left on device");
    log_wait(s, " error undo=ok");
    must(is_empty(at("disk")));
    h = hear_answer(get(s, "/full?path=%s&bytes=8192", at("disk/file")), false);
    must_say(h.status == 200, "%s", h.text);
    server_stop(s);
}

TEST(ledger_on_a_full_disk)
{
    if (!private_mounts() || !mount_small(at("state"), "8m")) {
        test_skipped("ledger_on_a_full_disk", "mounting is not allowed here");
        return;
    }
    struct server *s = things("%s", "");
    fill_disk(at("state/ballast"));
    struct heard h = hear_answer(get(s, "/make?path=%s", at("file")), false);
    must_say(h.status == 507, "%s", h.text);
    log_wait(s, " 507 ");
    must(!exists(at("file")));
    must(unlink(at("state/ballast")) == 0);
    must(hear_answer(get(s, "/make?path=%s", at("file")), false).status == 200);
    log_wait(s, " ok undo=none");
    must(exists(at("file")));
    server_stop(s);
}

TEST(disk_that_is_full_when_a_request_is_undone)
{
    if (!private_mounts() || !mount_small(at("state"), "8m")) {
        test_skipped("disk_that_is_full_when_a_request_is_undone", "mounting is not allowed here");
        return;
    }
    struct server *s = things("%s", "");
    int c = get(s, "/make?path=%s&seconds=60", at("file"));
    wait_made(s, at("file"));
    fill_disk(at("state/ballast"));
    close_fin(c);
    log_wait(s, " hangup undo=ok");
    must(!exists(at("file")));
    must(unlink(at("state/ballast")) == 0);
    server_stop(s);
}

TEST(undo_that_fails_stays_on_record)
{
    if (!private_mounts()) {
        test_skipped("undo_that_fails_stays_on_record", "mounting is not allowed here");
        return;
    }
    struct server *s = things("%s", "");
    int c = get(s, "/tree?path=%s&seconds=60", at("tree"));
    wait_made(s, at("tree"));
    must(mount("tmpfs", at("tree/below"), "tmpfs", 0, "size=64k") == 0);
    close_fin(c);
    log_wait(s, " hangup undo=failed");
    must(exists(at("tree/below")) && !exists(at("tree/one")) && is_empty(at("tmp")));
    struct output o = run("grep -r -h tree %s", at("state"));
    must_say(strstr(o.text, "rmtree-if ") == o.text || strstr(o.text, "\nrmtree-if "), "%s",
             o.text);
    must(umount(at("tree/below")) == 0);
    kill(s->pid, SIGTERM);
    waitpid(s->pid, NULL, 0);
    s->ended = true;
}

/* A program that may mount may do so over the directory that it was given, and leave it so. */
TEST_TIMES(what_is_mounted_over_the_scratch_directory_stays, 2)
{
    static const char *const ends[] = {"printf 'Content-Type: text/plain\\n\\ndone'",
                                       "exec sleep 60"};
    char text[1024];
    if (!private_mounts()) {
        test_skipped("what_is_mounted_over_the_scratch_directory_stays",
                     "mounting is not allowed here");
        return;
    }
    must(mkdir(at("precious"), 0755) == 0);
    file_write(at("precious/x"), "");
    snprintf(text, sizeof text,
             "#!/bin/sh\nmount --bind %s \"$TMPDIR\" && printf %%s \"$TMPDIR\" >%s\n%s\n",
             at("precious"), at("where"), ends[_i]);
    file_write(at("program"), text);
    must(chmod(at("program"), 0755) == 0);
    struct server *s = hangupd("--undo-retries 0 /p=%s", at("program"));
    int c = get(s, "/p");
    wait_until(*file_read(at("where")) != '\0');
    if (_i == 0)
        must(hear_answer(c, false).status == 200);
    close_fin(c);
    log_wait(s, "UNDO FAILED for good: scratch %s: Device or resource busy: something is mounted",
             file_read(at("where")));
    must(exists(at("precious/x")));
    must(umount(file_read(at("where"))) == 0);
    kill(s->pid, SIGTERM);
    waitpid(s->pid, NULL, 0);
    s->ended = true;
}
