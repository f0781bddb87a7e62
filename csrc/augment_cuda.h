#pragma once

#include <cstdint>
#include <string>

#include "program.h"

namespace cifarfast {

// Bytes of Job::scratch a job needs because its images do not fit into shared memory; 0 when they do.
int64_t augment_cuda_scratch(const Job& job);

// Queue a job whose pointers are device memory on a stream. Returns an error message, empty when all is well.
std::string augment_cuda(const Job& job, uintptr_t stream);

}  // namespace cifarfast
