/* What orders the threads of GCC's OpenMP, told to ThreadSanitizer.
 *
 * The runtime's threads wait for each other by system calls that the sanitizer does not see: without help it takes every
 * parallel loop for a race with what comes before and after it. This library stands in front of the runtime's entry
 * points and says what they promise, no more: the beginning of a parallel region comes after what its creator did
 * before, its end before what the creator does next, and a barrier parts what lies before it from what comes after.
 * Between two iterations of a loop nothing is promised, so that is where races are found.
 *
 * A race is seen if two threads have parts in it. On a busy machine one may be done with a loop before the others begin:
 * here they wait, in a way that the sanitizer does not see either, until each has its first iterations.
 *
 * tools/sanitize.py builds it and loads it first.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

void __tsan_acquire(void *address);
void __tsan_release(void *address);

/* One for all barriers: teams that run side by side are then ordered more than they are, and seen as less racy. */
static char barrier;

struct region {
    void (*body)(void *);
    void *data;
    bool is_loop; /* and nothing else: its threads ask for their next iterations at once */
    char begin, end;
    atomic_int arrived, meeting;
};

static _Thread_local struct region *here;
static _Thread_local bool is_first;

static void *next(const char *name) {
    void *function = dlsym(RTLD_NEXT, name);
    if (function == NULL) {
        fprintf(stderr, "tsan_openmp: no %s behind this library\n", name);
        abort();
    }
    return function;
}

/* Wait for the team. */
static void meet(void) {
    if (here == NULL) return;
    const int meeting = atomic_load(&here->meeting);
    if (atomic_fetch_add(&here->arrived, 1) + 1 == omp_get_num_threads()) {
        atomic_store(&here->arrived, 0);
        atomic_fetch_add(&here->meeting, 1);
    } else {
        while (atomic_load(&here->meeting) == meeting) sched_yield();
    }
}

static void run(void *data) {
    struct region *region = data, *outer = here;
    here = region;
    is_first = region->is_loop;
    __tsan_acquire(&region->begin);
    region->body(region->data);
    __tsan_release(&region->end);
    here = outer;
    is_first = false;
}

void GOMP_parallel(void (*body)(void *), void *data, unsigned threads, unsigned flags) {
    static void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
    struct region region = {.body = body, .data = data};
    if (parallel == NULL) parallel = next("GOMP_parallel");
    __tsan_release(&region.begin);
    parallel(run, &region, threads, flags);
    __tsan_acquire(&region.end);
}

void GOMP_parallel_loop_nonmonotonic_dynamic(void (*body)(void *), void *data, unsigned threads, long start, long end,
                                             long step, long chunk, unsigned flags) {
    static void (*parallel)(void (*)(void *), void *, unsigned, long, long, long, long, unsigned);
    struct region region = {.body = body, .data = data, .is_loop = true};
    if (parallel == NULL) parallel = next("GOMP_parallel_loop_nonmonotonic_dynamic");
    __tsan_release(&region.begin);
    parallel(run, &region, threads, start, end, step, chunk, flags);
    __tsan_acquire(&region.end);
}

bool GOMP_loop_nonmonotonic_dynamic_start(long start, long end, long step, long chunk, long *first, long *last) {
    static bool (*begin)(long, long, long, long, long *, long *);
    if (begin == NULL) begin = next("GOMP_loop_nonmonotonic_dynamic_start");
    const bool some = begin(start, end, step, chunk, first, last);
    meet();
    return some;
}

bool GOMP_loop_nonmonotonic_dynamic_next(long *first, long *last) {
    static bool (*go_on)(long *, long *);
    if (go_on == NULL) go_on = next("GOMP_loop_nonmonotonic_dynamic_next");
    const bool some = go_on(first, last);
    if (is_first) {
        is_first = false;
        meet();
    }
    return some;
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
