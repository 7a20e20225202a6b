/* To be preloaded: every fsync and fdatasync takes 5 ms longer while the file named by $SLOW_FSYNC_FLAG exists. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static int slowly(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    const char *flag = getenv("SLOW_FSYNC_FLAG");
    if (flag && access(flag, F_OK) == 0)
        usleep(5000);
    return real(fd);
}

int fsync(int fd) { return slowly("fsync", fd); }
int fdatasync(int fd) { return slowly("fdatasync", fd); }
