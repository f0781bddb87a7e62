// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the same function, bit for
// bit, as kernels/philox.py.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define CF_HD __host__ __device__ __forceinline__
#else
#define CF_HD inline
#endif

namespace cifarfast {

struct Words {
  uint32_t word[4];
};

CF_HD Words philox_4x32(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
  uint32_t k0 = static_cast<uint32_t>(key);
  uint32_t k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = static_cast<uint64_t>(0xD2511F53u) * c0;
    const uint64_t second = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    const uint32_t x0 = static_cast<uint32_t>(second >> 32) ^ c1 ^ k0;
    const uint32_t x2 = static_cast<uint32_t>(first >> 32) ^ c3 ^ k1;
    c0 = x0;
    c1 = static_cast<uint32_t>(second);
    c2 = x2;
    c3 = static_cast<uint32_t>(first);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return Words{{c0, c1, c2, c3}};
}

// 32 random bits as a float in [0, 1), exact.
CF_HD float uniform(uint32_t bits) { return static_cast<float>(bits >> 8) * (1.0f / 16777216.0f); }

// 32 random bits as a float in [low, high].
CF_HD float between(uint32_t bits, float low, float high) { return low + (high - low) * uniform(bits); }

// 32 random bits as an integer in [0, n).
CF_HD int64_t randint(uint32_t bits, int64_t n) {
  return static_cast<int64_t>((static_cast<uint64_t>(bits) * static_cast<uint64_t>(n)) >> 32);
}

}  // namespace cifarfast
