#pragma once

#include "program.h"

namespace cifarfast {

// Run a job whose pointers are host memory, on at most `threads` threads.
void augment_cpu(const Job& job, int threads);

}  // namespace cifarfast
