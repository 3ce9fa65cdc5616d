/* harness.h: what the suites share, all its parts.
 *
 *     suite.h                how a test is registered, fails and waits; its directory
 *     harness_files.h        paths and files, the README, tests/deploy
 *     harness_processes.h    processes, and programs that are run
 *     harness_servers.h      servers and their logs, and the proof that nothing is left
 *     harness_clients.h      clients, curl
 *     harness_obstacles.h    system calls that fail, mounts, full disks
 */
#ifndef HARNESS_H
#define HARNESS_H

#include "harness_clients.h"
#include "harness_files.h"
#include "harness_obstacles.h"
#include "harness_processes.h"
#include "harness_servers.h"
#include "suite.h"

/* A failure in one of these is reported with the line of the test that called it. */
#define HERE(call) (test_file = __FILE__, test_line = __LINE__, call)
#define wait_exists(...) HERE(wait_exists(__VA_ARGS__))
#define wait_gone(...) HERE(wait_gone(__VA_ARGS__))
#define only_child(...) HERE(only_child(__VA_ARGS__))
#define wait_no_process(...) HERE(wait_no_process(__VA_ARGS__))
#define wait_read(...) HERE(wait_read(__VA_ARGS__))
#define wait_seen(...) HERE(wait_seen(__VA_ARGS__))
#define no_process_left(...) HERE(no_process_left(__VA_ARGS__))
#define nothing_left(...) HERE(nothing_left(__VA_ARGS__))
#define run(...) HERE(run(__VA_ARGS__))
#define run_argv(...) HERE(run_argv(__VA_ARGS__))
#define server_start(...) HERE(server_start(__VA_ARGS__))
#define server_stop(...) HERE(server_stop(__VA_ARGS__))
#define server_wait(...) HERE(server_wait(__VA_ARGS__))
#define server_kill(...) HERE(server_kill(__VA_ARGS__))
#define log_wait(...) HERE(log_wait(__VA_ARGS__))
#define wait_made(...) HERE(wait_made(__VA_ARGS__))
#define dial(...) HERE(dial(__VA_ARGS__))
#define say(...) HERE(say(__VA_ARGS__))
#define get(...) HERE(get(__VA_ARGS__))
#define hear(...) HERE(hear(__VA_ARGS__))
#define hear_until(...) HERE(hear_until(__VA_ARGS__))
#define hear_answer(...) HERE(hear_answer(__VA_ARGS__))
#define curl(...) HERE(curl(__VA_ARGS__))

#endif
