#include "harness_obstacles.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "suite.h"

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define ARGUMENT(n) (offsetof(struct seccomp_data, args) + (size_t)8 * (n))
#else
#define ARGUMENT(n) (offsetof(struct seccomp_data, args) + (size_t)8 * (n) + 4)
#endif

bool deny(unsigned number, unsigned arg, unsigned bits, unsigned error)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned)ARGUMENT(arg)),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof filter / sizeof filter[0], .filter = filter};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0)
        return true;
    return false;
}

static bool write_line(const char *path, const char *line)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ssize_t n = (ssize_t)strlen(line);
    bool written = fd >= 0 && write(fd, line, (size_t)n) == n;
    if (fd >= 0)
        close(fd);
    return written;
}

bool own_namespaces(int kinds)
{
    char users[32], groups[32];
    snprintf(users, sizeof(users), "0 %u 1", geteuid());
    snprintf(groups, sizeof(groups), "0 %u 1", getegid());
    if (geteuid() == 0)
        return unshare(kinds) == 0;
    return unshare(CLONE_NEWUSER | kinds) == 0 && write_line("/proc/self/setgroups", "deny") &&
           write_line("/proc/self/uid_map", users) && write_line("/proc/self/gid_map", groups);
}

bool private_mounts(void)
{
    return own_namespaces(CLONE_NEWNS) &&
           mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) == 0;
}

bool mount_small(const char *path, const char *size)
{
    char options[64];
    snprintf(options, sizeof(options), "size=%s,mode=0700", size);
    return (mkdir(path, 0700) == 0 || errno == EEXIST) &&
           mount("tmpfs", path, "tmpfs", 0, options) == 0;
}

void fill_disk(const char *path)
{
    static const char block[4096];
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    must(fd >= 0);
    for (size_t n = sizeof(block); n > 0; n /= 2)
        while (write(fd, block, n) == (ssize_t)n) {
        }
    must(errno == ENOSPC);
    close(fd);
}

bool set_file_flag(const char *path, int flag, bool yes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), flags = 0;
    bool done = fd >= 0 && ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0;
    flags = yes ? flags | flag : flags & ~flag;
    done = done && ioctl(fd, FS_IOC_SETFLAGS, &flags) == 0;
    if (fd >= 0)
        close(fd);
    return done;
}
