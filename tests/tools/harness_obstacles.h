/* harness_obstacles.h: what a test puts in the way: failing system calls, mounts, full disks. */
#ifndef HARNESS_OBSTACLES_H
#define HARNESS_OBSTACLES_H

#include <stdbool.h>

/* The system call NUMBER fails with ERROR from here on, in this process and in what it starts, if
 * its argument ARG (from 0) has one of BITS. Returns false, with errno, if that is not allowed
 * here. */
bool deny(unsigned number, unsigned arg, unsigned bits, unsigned error);

/* Namespaces of these KINDS, as clone(2) calls them, of this process's own, and of a user's own
 * unless this is root. Returns false if that is not allowed here. */
bool own_namespaces(int kinds);
/* Mount namespaces of one's own, in which what is mounted is seen by this test's servers alone.
 * Returns false if that is not allowed here. */
bool private_mounts(void);
/* Mount a file system of SIZE, "256k", at PATH, which is made unless it is there. */
bool mount_small(const char *path, const char *size);
/* Give the file PATH the attribute FLAG of chattr(1), FS_APPEND_FL or FS_IMMUTABLE_FL, or take it
 * away. Returns false if that is not allowed here, or the file system has none. */
bool set_file_flag(const char *path, int flag, bool yes);
/* Write to the file PATH until its disk has no room for one byte more. */
void fill_disk(const char *path);

#endif
