#!/bin/sh
# Prove that what may run in a signal handler calls nothing that must not.
#
#     lint_async_safe.sh OBJECT...      (built without sanitizers, linked together)
#
# Functions marked ASYNC_SAFE (cleanup.h) lie in the section .text.async_safe. Each reference to a
# function that the linker has to fill in there, a call or an address taken, must be to that section
# itself or to a function named below. Calls through pointers are refused but in the functions named
# below; inlined ones are told apart by the debug information (-g). Prints what is wrong and fails,
# or prints one line.
set -eu

# signal-safety(7), as far as it makes sense here.
POSIX='_exit _Exit abort accept accept4 access bind chdir chmod chown clock_gettime close connect
dup dup2 dup3 execve faccessat fchdir fchmod fchmodat fchown fchownat fcntl fcntl64 fdatasync
fstat fstat64 fstatat fstatat64 fsync ftruncate ftruncate64 getegid geteuid getgid getpgid
getpgrp getpid getppid getsid getsockname getsockopt getuid kill link linkat listen lseek lseek64
lstat lstat64 mkdir mkdirat open open64 openat openat64 pipe pipe2 poll ppoll pread pread64
pselect pwrite pwrite64 raise read readlink readlinkat readv recv recvfrom recvmsg rename renameat
rmdir select send sendmsg sendto setpgid setsid setsockopt shutdown sigaction sigaddset sigdelset
sigemptyset sigfillset sigismember sigpending sigprocmask sigsuspend socket socketpair stat stat64
symlinkat time umask uname unlink unlinkat utimensat vfork wait wait4 waitid waitpid write writev
nanosleep clock_nanosleep pthread_sigmask'

# Pure functions on memory and strings (the same page).
PURE='memccpy memchr memcmp memcpy memmem memmove memrchr mempcpy memset explicit_bzero
stpcpy stpncpy strcat strchr strchrnul strcmp strcpy strcspn strlen strncat strncmp strncpy
strnlen strpbrk strrchr strspn strstr rawmemchr htonl htons ntohl ntohs'

# Linux: glibc makes one system call of each, and touches nothing else but errno.
SYSCALLS='syscall close_range copy_file_range epoll_create1 epoll_ctl eventfd fallocate
fallocate64 pwritev2 pwritev64v2 flistxattr fstatfs fstatfs64 flock getdents64 getrandom gettid ioctl madvise memfd_create mmap mmap64 mprotect munmap
name_to_handle_at pidfd_open pidfd_send_signal prctl prlimit prlimit64 renameat2 sched_yield setfsuid sigtimedwait signalfd splice statx tgkill timerfd_settime _Fork'

# What the compiler puts in by itself, and the checked forms of the above.
COMPILER='bcmp __errno_location __stack_chk_fail __chk_fail _GLOBAL_OFFSET_TABLE_
__explicit_bzero_chk __fdelt_chk __memcpy_chk __memmove_chk __mempcpy_chk __memset_chk __open_2
__open64_2 __openat_2 __openat64_2 __poll_chk __ppoll_chk __pread_chk __pread64_chk __read_chk
__readlink_chk __readlinkat_chk __recv_chk __recvfrom_chk __stpcpy_chk __strcat_chk __strcpy_chk
__strncat_chk __strncpy_chk'

# An array of constant strings (the glibc manual: AS-Safe).
GLIBC='strerrordesc_np'

# Functions that may call through a pointer, and why that is safe.
#     report_part   cleanup_report is async-signal-safe by its contract
#     reap_until    what its caller passes, a marked function: addresses taken are checked
#     undo_run      the ledger's `run`: NULL, and not called, in a signal handler
#     undo_made     cleanup_undone is async-signal-safe by its contract
INDIRECT='report_part reap_until undo_run undo_made'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck disable=SC2086 # one word a function
printf '%s\n' $POSIX $PURE $SYSCALLS $COMPILER $GLIBC >"$work/allowed"

# The names that the section itself defines, in any of the objects; and what the objects define
# as data, which may be referred to.
for object; do
    # address, seven columns of flags, section, tab, size, name
    objdump -t "$object" | awk -F '\t' -v object="$object" '
        NF == 2 {
            section = $1
            sub(/.* /, "", section)
            flags = substr($1, length($1) - length(section) - 7, 7)
            name = $2
            sub(/.* /, "", name)
            kind = flags ~ /F/ && section == ".text.async_safe" ? "safe" : flags ~ /O/ ? "data" : ""
            if (kind != "")
                print kind, name, flags ~ /^l/ ? object : "*"
        }'
done >"$work/symbols"
grep -q '^safe' "$work/symbols" || {
    echo "lint_async_safe.sh: no function marked ASYNC_SAFE in: $*" >&2
    exit 1
}

# The function in the source that has the instruction at ADDRESS of SECTION. By its line, as the
# name that the debug information gives for inlined code is not always right.
name_of()
{
    place=$(addr2line -j "$1" -e "$object" "0x$2" | sed 's/ (discriminator.*//')
    awk -v line="${place##*:}" '
        NR > line { exit }
        { gsub(/__attribute__ *\(\([^)]*\)*/, "") }
        /^[a-zA-Z_].*\(/ && match($0, /[a-zA-Z0-9_]+\(/) { name = substr($0, RSTART, RLENGTH - 1) }
        END { print name }' "${place%:*}"
}

for object; do
    objdump -dr --no-show-raw-insn -j .text.async_safe "$object" 2>/dev/null |
        awk -v object="$object" -v work="$work" '
        BEGIN {
            while ((getline < (work "/allowed")) > 0) known[$1] = 1
            while ((getline < (work "/symbols")) > 0)
                if ($3 == "*" || $3 == object) known[$2] = 1
        }
        function complain(what) { printf "%s: %s %s\n", object, where, what }
        # An indirect call is held back for a line: its relocation may name what is called.
        function settle() {
            if (call != "") complain("calls through a pointer: " call)
            call = ""
        }
        /^[0-9a-f]+ <.*>:$/ { settle(); where = $2; gsub(/[<>:]/, "", where); next }
        $2 ~ /^R_/ {
            name = $3
            if (call != "" && $2 ~ /GOT/) call = ""
            sub(/[-+]0x[0-9a-f]+$/, "", name)
            if (name ~ /^\.text/ && name != ".text.async_safe")
                complain("refers to an unmarked function of its file: " $3)
            else if (name !~ /^\./ && !(name in known))
                complain("refers to " name)
            next
        }
        { settle() }
        # With control-flow protection "notrack" marks the jump of a switch, which stays inside.
        /\t(bnd )?(call|jmp) +\*/ || /\tblr +x/ { call = $1; sub(/:/, "", call) }
        END { settle() }' >"$work/found"
    while read -r line; do
        case $line in
        *'through a pointer: '*)
            name=$(name_of .text.async_safe "${line##*: }")
            case " $INDIRECT " in *" $name "*) continue ;; esac
            line="$line ($name)"
            ;;
        *.text+0x* | *.text-0x4)
            line="$line ($(name_of .text "$(printf '%x' $((${line##*.text} + 4)))"))"
            ;;
        esac
        echo "$line"
        touch "$work/failed"
    done <"$work/found"
done

# What is installed as a signal handler must have been marked in the first place.
sed -n 's/.*sa_\(handler\|sigaction\) = \([a-z][a-z0-9_]*\).*/\2/p' ./*.c | sort -u >"$work/handlers"
while read -r handler; do
    grep -q "^safe $handler " "$work/symbols" || {
        echo "the signal handler $handler is not marked ASYNC_SAFE"
        touch "$work/failed"
    }
done <"$work/handlers"

if [ -e "$work/failed" ]; then
    echo "lint_async_safe.sh: not async-signal-safe: see ASYNC_SAFE in include/cleanup.h" >&2
    exit 1
fi
echo "async-signal-safe: $(grep -c '^safe' "$work/symbols") functions in $#" objects
