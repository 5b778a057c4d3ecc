/* Makes one call in a process fail: the n-th of its kind on a file below a folder, or that one and all after it.
 *
 *     cc -shared -fPIC -O1 -o failing_calls.so failing_calls.c -ldl
 *     LD_PRELOAD=./failing_calls.so python ...
 *
 * Python's calls and SQLite's go the same way, through libc, so both are met. Nothing fails before `fault_arm`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

/* The order is known to faults.py. */
enum { PWRITE, WRITE, POSIX_FALLOCATE, FSYNC, FDATASYNC, FTRUNCATE, RENAME, RENAMEAT2, KINDS };

static char scope[4096];
static long seen[KINDS];
static int failing = -1, error, for_ever, half;
static long failing_nth;

void fault_scope(const char *folder) { snprintf(scope, sizeof scope, "%s", folder); }

/* half: a write stops in its middle, without an error. */
void fault_arm(int kind, long nth, int code, int from_then_on, int half_written) {
    memset(seen, 0, sizeof seen);
    failing = kind, failing_nth = nth, error = code, for_ever = from_then_on, half = half_written;
}

long fault_seen(int kind) { return seen[kind]; }

static int concerns(const char *path) {
    return scope[0] && path && strncmp(path, scope, strlen(scope)) == 0;
}

static int concerns_fd(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return concerns(path);
}

static int fails(int kind) {
    long nth = ++seen[kind];
    return kind == failing && (nth == failing_nth || (for_ever && nth > failing_nth));
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define PWRITE_LIKE(name, offset_t)                                                     \
    ssize_t name(int fd, const void *data, size_t size, offset_t offset) {              \
        if (concerns_fd(fd) && fails(PWRITE)) {                                         \
            if (!half) return errno = error, -1;                                        \
            size = size > 1 ? size / 2 : size;                                          \
        }                                                                               \
        return REAL(name)(fd, data, size, offset);                                      \
    }
PWRITE_LIKE(pwrite, off_t)
PWRITE_LIKE(pwrite64, off64_t)

ssize_t write(int fd, const void *data, size_t size) {
    if (concerns_fd(fd) && fails(WRITE)) {
        if (!half) return errno = error, -1;
        size = size > 1 ? size / 2 : size;
    }
    return REAL(write)(fd, data, size);
}

#define FALLOCATE_LIKE(name, offset_t)                                                  \
    int name(int fd, offset_t from, offset_t size) {                                    \
        if (concerns_fd(fd) && fails(POSIX_FALLOCATE)) return error;                    \
        return REAL(name)(fd, from, size);                                              \
    }
FALLOCATE_LIKE(posix_fallocate, off_t)
FALLOCATE_LIKE(posix_fallocate64, off64_t)

/* A sync that fails has not synced. */
#define SYNC_LIKE(name, kind)                                                           \
    int name(int fd) {                                                                  \
        if (concerns_fd(fd) && fails(kind)) return errno = error, -1;                   \
        return REAL(name)(fd);                                                          \
    }
SYNC_LIKE(fsync, FSYNC)
SYNC_LIKE(fdatasync, FDATASYNC)

#define TRUNCATE_LIKE(name, offset_t)                                                   \
    int name(int fd, offset_t size) {                                                   \
        if (concerns_fd(fd) && fails(FTRUNCATE)) return errno = error, -1;              \
        return REAL(name)(fd, size);                                                    \
    }
TRUNCATE_LIKE(ftruncate, off_t)
TRUNCATE_LIKE(ftruncate64, off64_t)

int rename(const char *from, const char *to) {
    if (concerns(to) && fails(RENAME)) return errno = error, -1;
    return REAL(rename)(from, to);
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    if (concerns(to) && fails(RENAMEAT2)) return errno = error, -1;
    return REAL(renameat2)(from_folder, from, to_folder, to, flags);
}
