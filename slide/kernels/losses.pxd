from libc.stdint cimport int32_t, int64_t, uint8_t

from slide.kernels.memory cimport Scratch


# The active sets of a batch, as kernels see them without the GIL; `ActiveSets` says what the arrays are.
cdef struct SampleSets:
    int64_t samples
    int64_t n_shared
    int64_t stride               # floats from one row of `shared` to the next
    int64_t logits               # how many all samples have together
    float *shared
    float *own
    const int64_t *begin
    const int64_t *end
    const int64_t *label_ptr
    const int32_t *label_place
    const float *target
    float smoothing
    const float *weight          # NULL where all stand for themselves
    double weight_sum            # sum of the shared neurons' weights
    double offset_sum            # sum of their weight * log(weight)
    const int64_t *certain_begin
    const int64_t *certain_end
    const int32_t *certain       # places of shared neurons with weight 1
    float *work                  # a slot for each thread: a copy of the weights, if any; room for a sample's labels
    int64_t slot                 # floats of a slot


cdef class ActiveSets:
    cdef SampleSets pointers
    # What the pointers point into.
    cdef float[:, ::1] shared
    cdef float[::1] own
    cdef const int64_t[::1] begin
    cdef const int64_t[::1] end
    cdef const int64_t[::1] label_ptr
    cdef const int32_t[::1] label_place
    cdef const float[::1] target
    cdef const float[::1] weight
    cdef const int64_t[::1] certain_begin
    cdef const int64_t[::1] certain_end
    cdef const int32_t[::1] certain
    cdef Scratch scratch
    cdef int slots
    cdef int64_t _check_sets(self) except -1
    cdef int _set_weights(self, const float[::1] weight, certain) except -1
    cdef int prepare(self, int threads, int64_t grain) except -1


cdef float *sample_weights(const SampleSets *sets, int64_t s, float *work) noexcept nogil
cdef void restore_weights(const SampleSets *sets, int64_t s, float *work) noexcept nogil
cdef void smoothed_sums(const SampleSets *sets, int64_t s, const float *shared, const float *own, const float *weight,
                        double *all_logits, double *stands_for) noexcept nogil


cdef inline float *logit_at(float *shared, int64_t n_shared, float *own, int32_t place) noexcept nogil:
    return &shared[place] if place < n_shared else &own[place - n_shared]
