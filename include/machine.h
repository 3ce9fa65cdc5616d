/* machine.h: which machine this is, and which boot of it: what paths, device numbers and process
 * numbers in a ledger mean.
 *
 *     cleanup_node_set(NULL);        // by its machine id; ledger.h
 *     boot_id_read();
 *     ...
 *     if (is_of_another_node(&head)) // its paths mean other files here: not ours to settle
 *     if (is_this_boot(&head))       // its numbers mean what they meant
 *
 * A state directory may be one for several machines, as a home directory on NFS is, or outlive the
 * container that used it. There the node's name tells whose a ledger is. A ledger without one, of
 * version 1 or made where no name is known, is this node's.
 *
 * Kind: included by cleanup.c alone.
 * Signal safety: what is marked ASYNC_SAFE.
 */
#ifndef HANGUPD_MACHINE_H
#define HANGUPD_MACHINE_H

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "ledger.h"
#include "reader.h"
#include "text.h"

/* ---- The boot -------------------------------------------------------------------------- */

#define BOOT_ID_SIZE 37
static char boot_id[BOOT_ID_SIZE]; /* of this boot; "unknown" where the kernel does not say */

/* Read it once for a process. */
ASYNC_SAFE static void boot_id_read(void)
{
    if (boot_id[0] != '\0')
        return;
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, boot_id, BOOT_ID_SIZE - 1);
    if (fd >= 0)
        close(fd);
    if (n != BOOT_ID_SIZE - 1)
        memcpy(boot_id, "unknown", sizeof "unknown");
}

/* Returns true if the ledger was made since this machine started. */
ASYNC_SAFE static bool is_this_boot(const struct header *h)
{
    return strcmp(boot_id, "unknown") != 0 && strcmp(h->boot, boot_id) == 0;
}

/* ---- The node -------------------------------------------------------------------------- */

static char own_node[NODE_SIZE]; /* "": it has no name */

bool cleanup_node_set(const char *name)
{
    char id[NODE_SIZE] = "";
    int fd = name == NULL ? open("/etc/machine-id", O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        ssize_t n = read(fd, id, sizeof id - 1);
        id[n > 0 ? n : 0] = '\0';
        id[strcspn(id, "\n")] = '\0';
        if (strlen(id) != 32) /* "uninitialized", as in the image of a machine */
            id[0] = '\0';
        close(fd);
    }
    size_t length = strlen(name != NULL ? name : id);
    if (name != NULL && (length == 0 || length >= NODE_SIZE || length != node_length(name)))
        return false;
    memcpy(own_node, name != NULL ? name : id, length + 1);
    return true;
}

static bool is_of_another_node(const struct header *h)
{
    return h->valid && h->node[0] != '\0' && strcmp(h->node, own_node) != 0;
}

/* Write this node's name to the open lock of its server: where there is no ledger, that says whose
 * the directory is. Returns false with errno. */
static bool lock_sign(int lock)
{
    return write_all(lock, own_node, strlen(own_node)) == 0;
}

/* The file `lock` may go: some clean up by age. So a server also holds its directory, by a
 * descriptor that its children close. Where that cannot be had, the lock alone has to do. */
static void directory_hold(int dir)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0)
        (void)flock(fd, LOCK_SH | LOCK_NB);
}

/* Returns true if the lock of the server's directory DIR has gone, and somebody holds it. */
static bool is_held_without_lock(int dir)
{
    if (name_is_there(dir, "lock"))
        return false;
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool held = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
    if (fd >= 0)
        close(fd);
    return held;
}

/* Returns true if the server's directory DIR is another node's, with its name in NODE. Not for the
 * server itself: it would let go of its lock. */
static bool is_signed_by_another(int dir, char node[NODE_SIZE])
{
    int lock = openat(dir, "lock", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    ssize_t n = lock < 0 ? -1 : read(lock, node, NODE_SIZE - 1);
    node[n > 0 ? n : 0] = '\0';
    if (lock >= 0)
        close(lock);
    return n > 0 && node_length(node) == (size_t)n && strcmp(node, own_node) != 0;
}

#endif
