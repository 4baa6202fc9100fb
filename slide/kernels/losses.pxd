from libc.stdint cimport int32_t, int64_t, uint8_t

from slide.kernels.memory cimport Scratch


# Every sample's active set, its labels and their targets, and what its shared neurons stand for.
cdef struct ActiveSets:
    float *shared
    int64_t n_shared
    int64_t stride
    float *own
    const int64_t *begin
    const int64_t *end
    const int64_t *label_ptr
    const int32_t *label_place
    const float *target
    const float *weight          # NULL where all stand for themselves
    const int64_t *certain_begin
    const int64_t *certain_end
    const int32_t *certain       # places of shared neurons with weight 1
    double weight_sum            # of the shared neurons
    double offset_sum            # of weight * log(weight)
    const uint8_t *labelled      # NULL where a sample's labels are all here


cdef int view_sets(ActiveSets *sets, float[:, ::1] shared, int64_t n_shared, float[::1] own,
                   const int64_t[::1] begin, const int64_t[::1] end, const int64_t[::1] label_ptr,
                   const int32_t[::1] label_place, const float[::1] target, float smoothing,
                   const float[::1] weight, certain, int64_t samples, int64_t hits) except -1
cdef int64_t scratch_slot(const ActiveSets *sets, int64_t labels) noexcept
cdef Scratch make_scratch(const ActiveSets *sets, int threads, int64_t slot)
cdef float *sample_weights(const ActiveSets *sets, int64_t s, float *work) noexcept nogil
cdef void restore_weights(const ActiveSets *sets, int64_t s, float *work) noexcept nogil
cdef void smoothed_sums(const ActiveSets *sets, int64_t s, const float *shared, const float *own, const float *weight,
                        double *all_logits, double *stands_for) noexcept nogil


cdef inline float *logit_at(float *shared, int64_t n_shared, float *own, int32_t place) noexcept nogil:
    return &shared[place] if place < n_shared else &own[place - n_shared]
