/* A clock that jumps, for the processes that this library is preloaded into: the wall clock alone, as when a machine's
   time is set. CLOCK_OFFSET names a file of eight bytes, seconds to add, which may be changed at any time. Deadlines on the
   wall clock are taken back to the true one, for the kernel does not know of the jump.
   Built and used by chaos.py; libfaketime 0.9 breaks every sleep when told to leave the monotonic clock alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t none = 0, *offset = &none;
static long (*real_syscall)(long, ...);

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("CLOCK_OFFSET");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *found = file < 0 ? MAP_FAILED : mmap(NULL, sizeof none, PROT_READ, MAP_SHARED, file, 0);
    if (file >= 0)
        close(file);
    if (found != MAP_FAILED)
        offset = found;
}

static void *next(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

#define REAL(name) ((__typeof__(&name))(cached ? cached : found(&cached, #name)))

static void *found(void **cached, const char *name)
{
    return *cached = next(name);
}

static struct timespec back(const struct timespec *when)
{
    return (struct timespec){when->tv_sec - *offset, when->tv_nsec};
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static void *cached;
    int code = REAL(clock_gettime)(clock, now);
    if (!code && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *offset;
    return code;
}

int gettimeofday(struct timeval *now, void *zone)
{
    struct timespec true_one;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &true_one);
    *now = (struct timeval){true_one.tv_sec, true_one.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *now)
{
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now)
        *now = found.tv_sec;
    return found.tv_sec;
}

int sem_timedwait(sem_t *semaphore, const struct timespec *until)
{
    static void *cached;
    struct timespec true_one = back(until);
    return REAL(sem_timedwait)(semaphore, &true_one);
}

int pthread_mutex_timedlock(pthread_mutex_t *mutex, const struct timespec *until)
{
    static void *cached;
    struct timespec true_one = back(until);
    return REAL(pthread_mutex_timedlock)(mutex, &true_one);
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until)
{
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    struct timespec true_one = back(until);
    if (!real) { /* the older version of this name takes another structure */
        void *newer = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
        real = (__typeof__(real))(newer ? newer : next("pthread_cond_timedwait"));
    }
    return real(condition, mutex, &true_one);
}

long syscall(long number, ...)
{
    long a[6];
    struct timespec true_one;
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(rest, long);
    va_end(rest);
    if (number == SYS_futex && (a[1] & FUTEX_CLOCK_REALTIME) && a[3]) {
        true_one = back((const struct timespec *)a[3]);
        a[3] = (long)&true_one;
    }
    if (!real_syscall)
        real_syscall = (long (*)(long, ...))next("syscall");
    return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
