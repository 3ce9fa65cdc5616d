/* listen.h: addresses as people write them, and sockets to listen on: made, or inherited.
 *
 *     struct listener l;
 *     listen_on(&l, "[::1]:8080", NULL);           // or :80, 127.0.0.1:0, unix:/run/report.sock
 *     if (!listen_inherit(&l, 0, "descriptor 0"))  // of inetd
 *         serve_one(l.fd);                         // a connection, not a listening socket
 *     listen_end(&l);                              // close it, and remove the file of unix:PATH
 *
 *     struct address a = address_of(&from);
 *     address_text(&a, text, sizeof text);         // "[::1]:41234", or "unix"
 *
 * The caller owns the listener and keeps it where it likes; nothing is remembered here. If a
 * socket cannot be had, the process ends with a plain sentence (cannot, wrong_use of options.h), so
 * none of this may be called once the server serves, but for listen_end, address_of and
 * address_text.
 *
 * Another kind of socket must offer what the promise is built on: a word on whether the answer has
 * arrived (bytes acknowledged, or "read": handler_delivery), a way to cut an answer that is
 * not to be taken for whole (handler_cut), an end in order (handler_end_sending), and an address or
 * its lack (address_text, --per-client, environment.h). TCP and AF_UNIX differ in each: wherever
 * is_tcp is asked, a third kind needs an answer.
 *
 * Addresses are numbers, or localhost. Names are not looked up: getaddrinfo(3) loads libraries
 * while it runs, which a statically linked program should not, and it blocks.
 *
 * Kind: included by server.c alone.
 * Signal safety: none.
 */
#ifndef HANGUPD_LISTEN_H
#define HANGUPD_LISTEN_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "options.h"
#include "state.h"

/* ---- Addresses ----------------------------------------------------------------------- */

struct address {
    sa_family_t family;      /* AF_INET, AF_INET6; anything else is a unix socket's caller */
    uint16_t port;           /* in the machine's order of bytes */
    unsigned char bytes[16]; /* 4 of them for AF_INET */
};

static struct address address_of(const struct sockaddr_storage *from)
{
    struct address a = {.family = from->ss_family};
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)from;
        memcpy(a.bytes, &in->sin_addr, sizeof in->sin_addr);
        a.port = ntohs(in->sin_port);
    } else if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const void *)from;
        memcpy(a.bytes, &in6->sin6_addr, sizeof in6->sin6_addr);
        a.port = ntohs(in6->sin6_port);
        /* A caller by IPv4 on :PORT. It is the same client as on 0.0.0.0:PORT, for people and for
         * --per-client, so it gets the same name. */
        if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
            a.family = AF_INET;
            memcpy(a.bytes, &in6->sin6_addr.s6_addr[12], 4);
        }
    }
    return a;
}

/* "127.0.0.1:80", "[::1]:80"; a caller on a unix socket has no address, and is "unix". */
static void address_text(const struct address *a, char *text, size_t size)
{
    char number[INET6_ADDRSTRLEN];
    if (inet_ntop(a->family, a->bytes, number, sizeof number) == NULL)
        snprintf(text, size, "unix");
    else
        snprintf(text, size, a->family == AF_INET6 ? "[%s]:%u" : "%s:%u", number, a->port);
}

/* Returns the size of the address that HOST, a number, stands for, or 0 if it is none. */
static socklen_t address_parse(const char *host, in_port_t port, struct sockaddr_storage *at)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    char number[INET6_ADDRSTRLEN];
    if (inet_pton(AF_INET, host, &v4.sin_addr) == 1) {
        memcpy(at, &v4, sizeof v4);
        return sizeof v4;
    }
    const char *zone = strchr(host, '%'); /* fe80::1%eth0 */
    size_t length = zone != NULL ? (size_t)(zone - host) : strlen(host);
    if (length >= sizeof number)
        return 0;
    snprintf(number, sizeof number, "%.*s", (int)length, host);
    if (zone != NULL)
        v6.sin6_scope_id = if_nametoindex(zone + 1);
    if (inet_pton(AF_INET6, number, &v6.sin6_addr) != 1 || (zone != NULL && v6.sin6_scope_id == 0))
        return 0;
    memcpy(at, &v6, sizeof v6);
    return sizeof v6;
}

/* ---- Listeners ----------------------------------------------------------------------- */

struct listener {
    int fd; /* does not block, closed on exec; an inherited connection is left as it came */
    bool is_tcp;
    char name[LISTENER_NAME_SIZE];
    char unix_path[sizeof((struct sockaddr_un *)0)->sun_path]; /* "": no file that we made */
    dev_t dev;                                                 /* ...which file that is */
    ino_t ino;
};

/* Connections inherit these from the socket that accepts them, on Linux: so a request costs no call
 * for them, and there is no moment in which a connection is without. */
static void listen_set_options(int fd, bool is_tcp)
{
    const int on = 1;
    const struct linger reset = {.l_onoff = 1, .l_linger = 0};
    /* Probes for the last two thirds of the time, so that the loss of a few ends no request. With
     * TCP_USER_TIMEOUT it is that time that ends it, and no count of probes (tcp(7)). */
    int dead_s = (int)(settings.handler.dead_peer_ms / 1000);
    int interval_s = dead_s < 20 ? 1 : dead_s / 10;
    int idle_s = dead_s - dead_s * 2 / 3 / interval_s * interval_s;
    unsigned user_ms = (unsigned)settings.handler.dead_peer_ms;
    /* If everybody dies, the kernel closes the connection. The client must then see a reset: a
     * plain FIN would look like the end of an answer whose length it does not know. */
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (!is_tcp)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_ms, sizeof user_ms);
}

/* Make *L of the socket FD, which listens. Its name is what the kernel says, as port 0 has become
 * a real one. */
static void listen_fill(struct listener *l, int fd, bool is_tcp)
{
    *l = (struct listener){.fd = fd, .is_tcp = is_tcp};
    listen_set_options(fd, is_tcp);
    struct sockaddr_storage at = {0};
    socklen_t size = sizeof at;
    getsockname(fd, (struct sockaddr *)&at, &size);
    if (at.ss_family == AF_UNIX) {
        snprintf(l->name, sizeof l->name, "unix:%s", ((struct sockaddr_un *)&at)->sun_path);
    } else {
        struct address here = address_of(&at);
        address_text(&here, l->name, sizeof l->name);
    }
}

/* Root may make the socket PATH for another user only where nobody else can put a link or another
 * file in its place; elsewhere that user makes it. */
static bool listen_waits_for_user(const char *name)
{
    return strncmp(name, "unix:", 5) == 0 && settings.user != NULL && geteuid() == 0 &&
           !is_roots_alone(name + 5);
}

/* Who may connect: --socket-mode and --socket-group, and with --user that user. The mode is bind's,
 * so that there is no moment with another one. */
static void listen_give(const char *path, const struct passwd *owner)
{
    gid_t group = owner != NULL ? owner->pw_gid : (gid_t)-1;
    if (settings.socket_group != NULL && !find_group(settings.socket_group, &group))
        cannot("--socket-group %s: not a group in /etc/group", settings.socket_group);
    uid_t user = owner != NULL && geteuid() == 0 ? owner->pw_uid : (uid_t)-1;
    if ((user != (uid_t)-1 || settings.socket_group != NULL) && lchown(path, user, group) < 0)
        cannot("could not give unix:%s to its user and group: %s%s", path, strerror(errno),
               errno == EPERM ? "; the user must be in that group" : "");
}

/* OWNER is the user that --user names, or NULL. */
static void listen_unix(struct listener *l, const char *path, const struct passwd *owner)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    struct stat there;
    if (*path == '\0' || strlen(path) >= sizeof at.sun_path)
        wrong_use("--listen unix:%s: the path is empty or longer than %zu bytes", path,
                  sizeof at.sun_path - 1);
    if (settings.check) {
        if (lstat(path, &there) == 0 && !S_ISSOCK(there.st_mode))
            cannot("could not listen on unix:%s: the path exists and is not a socket", path);
        return;
    }
    memcpy(at.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        cannot("could not make a socket: %s", strerror(errno));
    if (lstat(path, &there) == 0) {
        /* A server that was killed leaves its file, and nobody answers there. Only such a file is
         * removed: ours, a socket, and dead. */
        bool ours = there.st_uid == geteuid() || (owner != NULL && there.st_uid == owner->pw_uid);
        bool stale = S_ISSOCK(there.st_mode) && ours &&
                     connect(fd, (struct sockaddr *)&at, sizeof at) < 0 && errno == ECONNREFUSED;
        if (!stale)
            cannot("could not listen on unix:%s: the path exists and is %s; remove it or choose "
                   "another",
                   path, S_ISSOCK(there.st_mode) ? "in use or another user's" : "not a socket");
        unlink(path);
    }
    mode_t before = umask(0);
    umask(settings.socket_mode >= 0 ? ~(mode_t)settings.socket_mode & 0777 : before);
    bool bound = bind(fd, (struct sockaddr *)&at, sizeof at) == 0;
    umask(before);
    if (!bound || listen(fd, SOMAXCONN) < 0)
        cannot("could not listen on unix:%s: %s", path, strerror(errno));
    listen_give(path, owner);
    listen_fill(l, fd, false);
    memcpy(l->unix_path, at.sun_path, sizeof l->unix_path);
    if (lstat(path, &there) == 0) {
        l->dev = there.st_dev;
        l->ino = there.st_ino;
    }
}

static void listen_tcp(struct listener *l, const struct sockaddr_storage *at, socklen_t size,
                       const char *name)
{
    const int on = 1;
    if (settings.check)
        return;
    int fd = socket(at->ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        cannot("could not make a socket for %s: %s", name, strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (at->ss_family == AF_INET6) {
        const int only = *name != ':'; /* :PORT is IPv4 as well */
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only);
    }
    if (bind(fd, (const struct sockaddr *)at, size) < 0 || listen(fd, SOMAXCONN) < 0)
        cannot("could not listen on %s: %s%s", name, strerror(errno),
               errno == EADDRINUSE ? "; another server has this port: stop it, or choose another "
                                     "port with --listen"
               : errno == EACCES   ? "; ports below 1024 want root"
                                   : "");
    listen_fill(l, fd, true);
}

/* All addresses: of both kinds, where the kernel has IPv6. */
static const char *listen_everywhere(void)
{
    int probe = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (probe < 0)
        return "0.0.0.0";
    close(probe);
    return "::";
}

/* Listen on NAME, or with --check see whether NAME can be meant: ADDR:PORT, [V6]:PORT, :PORT or
 * unix:PATH, whose OWNER is the user that --user names, or NULL. */
static void listen_on(struct listener *l, const char *name, const struct passwd *owner)
{
    char host[256];
    if (strncmp(name, "unix:", 5) == 0) {
        listen_unix(l, name + 5, owner);
        return;
    }
    const char *colon = strrchr(name, ':'), *port = colon != NULL ? colon + 1 : "", *end = port;
    unsigned long long number;
    size_t length = colon != NULL ? (size_t)(colon - name) : 0;
    if (!parse_number(&end, 65535, &number) || *end != '\0' || length >= sizeof host)
        wrong_use("--listen %s is not ADDR:PORT, [V6]:PORT, :PORT or unix:PATH", name);
    bool bracketed = length > 2 && name[0] == '[' && name[length - 1] == ']';
    snprintf(host, sizeof host, "%.*s", (int)length - 2 * bracketed, name + bracketed);
    if (!bracketed && strchr(host, ':') != NULL)
        wrong_use("--listen %s: write an IPv6 address in brackets, as in [::1]:8080", name);
    const char *where = host[0] == '\0'                  ? listen_everywhere()
                        : strcmp(host, "localhost") == 0 ? "127.0.0.1"
                                                         : host;
    struct sockaddr_storage at = {0};
    socklen_t size = address_parse(where, (in_port_t)number, &at);
    if (size == 0)
        wrong_use("--listen %s: %s is not an address of this machine", name, host);
    listen_tcp(l, &at, size, name);
}

/* Returns 1 if FD is a socket that listens, 0 if it is a connection, or -1 with errno if it is no
 * socket. */
static int listen_kind(int fd)
{
    int listens = 0;
    socklen_t size = sizeof listens;
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) < 0 ? -1 : listens != 0;
}

/* Take FD, a socket that was handed to us, described by FROM. Returns false if it is no listening
 * socket but a connection, as inetd's nowait gives: then *L has only fd and is_tcp. */
static bool listen_inherit(struct listener *l, int fd, const char *from)
{
    int domain = 0, type = 0, listens = listen_kind(fd);
    socklen_t size = sizeof domain;
    if (listens < 0)
        cannot("%s is not a socket (%s); it must be a connection or a listening socket", from,
               strerror(errno));
    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size);
    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size);
    if (type != SOCK_STREAM || (domain != AF_UNIX && domain != AF_INET && domain != AF_INET6))
        cannot("%s is not a stream socket of TCP or AF_UNIX", from);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    if (listens) {
        /* A caller may vanish between epoll's word and accept(2), which would then wait. */
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
        listen_fill(l, fd, domain != AF_UNIX);
        return true;
    }
    *l = (struct listener){.fd = fd, .is_tcp = domain != AF_UNIX};
    listen_set_options(fd, l->is_tcp);
    return false;
}

/* Returns how many descriptors systemd hands over, from 3 on, as sd_listen_fds(3) does. They are
 * meant for this process alone, so the variables that tell of them go. */
static int listen_handed_over(void)
{
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    unsigned long long owner, n;
    if (pid == NULL || count == NULL || !parse_number(&pid, INT_MAX, &owner) ||
        (pid_t)owner != getpid())
        return 0;
    if (!parse_number(&count, LISTENERS_MAX, &n) || n == 0)
        cannot("LISTEN_FDS=%s is not a number from 1 to %d", getenv("LISTEN_FDS"), LISTENERS_MAX);
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    return (int)n;
}

/* Listen no more. The file of a unix socket is removed if it is the one that we made, and not one
 * that another server has put in its place. */
static void listen_end(const struct listener *l)
{
    struct stat now;
    if (l->unix_path[0] != '\0' && lstat(l->unix_path, &now) == 0 && now.st_dev == l->dev &&
        now.st_ino == l->ino)
        unlink(l->unix_path);
    close(l->fd);
}

/* ---- Names that only root can remove ------------------------------------------------------ */

/* With --user, the name of a socket in a directory of root's is root's to remove. So a process
 * keeps root's rights for that alone: it waits until the server lets go of the pipe, or dies. */
struct remover {
    pid_t pid; /* 0: there is none */
    int end;   /* of the pipe */
};

static void listen_remover(struct remover *r, const struct listener *listeners, size_t count)
{
    int ends[2];
    char byte;
    size_t names = 0;
    for (size_t i = 0; i < count; i++)
        names += listeners[i].unix_path[0] != '\0';
    if (names == 0)
        return;
    if (pipe2(ends, O_CLOEXEC) < 0 || (r->pid = fork()) < 0)
        cannot("could not make a process for the sockets' names: %s", strerror(errno));
    if (r->pid > 0) {
        close(ends[0]);
        r->end = ends[1];
        return;
    }
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL); /* what ends the server must not end it first */
    dup2(ends[0], STDIN_FILENO);
    close_range(STDIN_FILENO + 1, ~0U, 0);
    while (read(STDIN_FILENO, &byte, 1) < 0 && errno == EINTR)
        continue;
    for (size_t i = 0; i < count; i++)
        listen_end(&listeners[i]);
    _exit(0);
}

/* The names may go. */
static void remover_begin(struct remover *r)
{
    if (r->pid > 0 && r->end >= 0)
        close(r->end);
    r->end = -1;
}

/* They have gone. */
static void remover_wait(struct remover *r)
{
    remover_begin(r);
    if (r->pid > 0)
        waitpid(r->pid, NULL, 0); /* unless it has been reaped */
}

#endif
