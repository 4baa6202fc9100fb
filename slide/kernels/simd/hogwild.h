/* What training without locks shares between threads. */
#ifndef SLIDE_HOGWILD_H
#define SLIDE_HOGWILD_H

#include <stdint.h>

/* Whether this call is the first, of all threads', to put `now` on the stamp. */
static inline int slide_first_touch(int32_t *stamp, int32_t now) {
    return __atomic_load_n(stamp, __ATOMIC_RELAXED) != now && __atomic_exchange_n(stamp, now, __ATOMIC_RELAXED) != now;
}

#endif
