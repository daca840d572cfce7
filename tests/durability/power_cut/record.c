/* Preloaded into a daemon: appends to the file $RECORD_LOG what is written to the file
 * $RECORD_FILE, and to "journal" beside it, and what is synced, in order. A write stands
 * there before it is made, a sync after it has finished.
 *
 * A file named $RECORD_FAIL with "sync", "meta" or "journal" in it makes the next sync of
 * $RECORD_FILE, or the next write through an O_DSYNC descriptor of it or of the journal, fail
 * with EIO, once; the write has reached the file by then. With "reader" the next sync of the
 * journal fails, which only processes that read it make.
 *
 * An entry: kind, flag, which file (0, or 1 for the journal), 5 unused bytes, u64 offset,
 * u64 length, then the data of writes.
 *   W write (flag 1: is a sync of itself; 2: failed)   S sync (flag 2: failed)
 *   T truncate (offset: the new length)   R moved into place (data: all of the file)
 *   D its folder synced */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

struct entry {
    char kind, flag, file, unused[5];
    uint64_t offset, length;
};

static void fatal(const char *what) {
    perror(what);
    abort();
}

/* A log with a hole would prove nothing: what cannot be recorded ends the process. */
static void record(char kind, char flag, int which, uint64_t offset, const struct iovec *data, int count) {
    static int log = -1;
    struct entry entry = {kind, flag, which, {0}, offset, 0};
    struct iovec all[IOV_MAX];
    ssize_t total = sizeof entry;
    int saved = errno;
    if (log < 0) log = open(getenv("RECORD_LOG"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (log < 0 || count >= IOV_MAX) fatal("opening the log");
    for (int i = 0; i < count; i++) {
        all[i + 1] = data[i];
        entry.length += data[i].iov_len;
    }
    all[0] = (struct iovec){&entry, sizeof entry};
    total += entry.length;
    if (REAL(writev)(log, all, count + 1) != total) fatal("recording");
    errno = saved;
}

static int is(int fd, const char *path) {
    char link[64], found[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, found, sizeof found - 1);
    if (length < 0) return 0;
    found[length] = 0;
    return strcmp(found, path) == 0;
}

static const char *file(void) { return getenv("RECORD_FILE"); }

/* 0 for the file, 1 for the journal, -1 for any other. */
static int which(int fd) {
    char copy[PATH_MAX], journal[PATH_MAX + 16];
    if (is(fd, file())) return 0;
    snprintf(copy, sizeof copy, "%s", file());
    snprintf(journal, sizeof journal, "%s/journal", dirname(copy));
    return is(fd, journal) ? 1 : -1;
}

static int is_folder(int fd) {
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", file());
    return is(fd, dirname(copy));
}

static int fails(const char *what) {
    char asked[8] = "";
    int fd = open(getenv("RECORD_FAIL"), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    if (read(fd, asked, sizeof asked - 1) < 0) fatal("reading what fails");
    close(fd);
    return strncmp(asked, what, strlen(what)) == 0 && unlink(getenv("RECORD_FAIL")) == 0;
}

static ssize_t failed(void) {
    errno = EIO;
    return -1;
}

static ssize_t at(int fd, const void *data, size_t length, off_t offset) {
    struct iovec one = {(void *)data, length};
    int which_one = which(fd);
    if (which_one < 0) return REAL(pwrite)(fd, data, length, offset);
    int sync = (fcntl(fd, F_GETFL) & O_DSYNC) != 0;
    if (sync && fails(which_one == 0 ? "meta" : "journal")) {
        record('W', 2, which_one, offset, &one, 1);
        REAL(pwrite)(fd, data, length, offset);
        return failed();
    }
    /* Before, as a plain write: the power may fail while it is under way. */
    record('W', 0, which_one, offset, &one, 1);
    ssize_t done = REAL(pwrite)(fd, data, length, offset);
    if (sync && done == (ssize_t)length) record('W', 1, which_one, offset, &one, 1);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    return at(fd, data, length, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    return at(fd, data, length, offset);
}

ssize_t writev(int fd, const struct iovec *data, int count) {
    int which_one = which(fd);
    if (which_one >= 0) record('W', 0, which_one, lseek(fd, 0, SEEK_CUR), data, count);
    return REAL(writev)(fd, data, count);
}

static int sync_by(int fd, int (*real)(int)) {
    int folder = is_folder(fd), which_one = folder ? 0 : which(fd);
    if (!folder && which_one >= 0 && fails(which_one == 0 ? "sync" : "reader")) {
        record('S', 2, which_one, 0, NULL, 0);
        return failed();
    }
    int result = real(fd);
    if (result == 0 && which_one >= 0) record(folder ? 'D' : 'S', 0, which_one, 0, NULL, 0);
    return result;
}

int fdatasync(int fd) { return sync_by(fd, REAL(fdatasync)); }
int fsync(int fd) { return sync_by(fd, REAL(fsync)); }

static int cut(int fd, off_t length) {
    int which_one = which(fd);
    if (which_one >= 0) record('T', 0, which_one, length, NULL, 0);
    return REAL(ftruncate)(fd, length);
}
int ftruncate(int fd, off_t length) { return cut(fd, length); }
int ftruncate64(int fd, off64_t length) { return cut(fd, length); }

int rename(const char *from, const char *to) {
    if (strcmp(to, file()) == 0) {
        struct stat found;
        int fd = open(from, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &found) < 0) fatal("opening what is moved");
        struct iovec all = {malloc(found.st_size), found.st_size};
        if (!all.iov_base || read(fd, all.iov_base, all.iov_len) != found.st_size) fatal("reading what is moved");
        close(fd);
        record('R', 0, 0, 0, &all, 1);
        free(all.iov_base);
    }
    return REAL(rename)(from, to);
}
