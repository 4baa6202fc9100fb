/* What orders the threads of GCC's OpenMP, told to ThreadSanitizer.
 *
 * The runtime's threads wait for each other by system calls that the sanitizer does not see: without help it takes every
 * parallel loop for a race with what comes before and after it. This library stands in front of the runtime's entry
 * points and says what they promise, no more: the beginning of a parallel region comes after what its creator did
 * before, its end before what the creator does next, and a barrier parts what lies before it from what comes after.
 * Between two iterations of a loop nothing is promised, so that is where races are found.
 *
 * tools/sanitize.py builds it and loads it first.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

void __tsan_acquire(void *address);
void __tsan_release(void *address);

/* One for all barriers: teams that run side by side are then ordered more than they are, and seen as less racy. */
static char barrier;

struct region {
    void (*body)(void *);
    void *data;
    char begin, end;
};

static void *next(const char *name) {
    void *function = dlsym(RTLD_NEXT, name);
    if (function == NULL) {
        fprintf(stderr, "tsan_openmp: no %s behind this library\n", name);
        abort();
    }
    return function;
}

static void run(void *data) {
    struct region *region = data;
    __tsan_acquire(&region->begin);
    region->body(region->data);
    __tsan_release(&region->end);
}

void GOMP_parallel(void (*body)(void *), void *data, unsigned threads, unsigned flags) {
    static void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
    struct region region = {body, data, 0, 0};
    if (parallel == NULL) parallel = next("GOMP_parallel");
    __tsan_release(&region.begin);
    parallel(run, &region, threads, flags);
    __tsan_acquire(&region.end);
}

/* A region that is a loop and nothing else. */
void GOMP_parallel_loop_nonmonotonic_dynamic(void (*body)(void *), void *data, unsigned threads, long start, long end,
                                             long step, long chunk, unsigned flags) {
    static void (*parallel)(void (*)(void *), void *, unsigned, long, long, long, long, unsigned);
    struct region region = {body, data, 0, 0};
    if (parallel == NULL) parallel = next("GOMP_parallel_loop_nonmonotonic_dynamic");
    __tsan_release(&region.begin);
    parallel(run, &region, threads, start, end, step, chunk, flags);
    __tsan_acquire(&region.end);
}

void GOMP_barrier(void) {
    static void (*wait)(void);
    if (wait == NULL) wait = next("GOMP_barrier");
    __tsan_release(&barrier);
    wait();
    __tsan_acquire(&barrier);
}

void GOMP_loop_end(void) {
    static void (*wait)(void);
    if (wait == NULL) wait = next("GOMP_loop_end");
    __tsan_release(&barrier);
    wait();
    __tsan_acquire(&barrier);
}
