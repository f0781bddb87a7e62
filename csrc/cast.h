// From fp32 to the output types, round to nearest even, the same bits on every machine.
#pragma once

#include "philox.h"

namespace cifarfast {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

union FloatBits {
  float value;
  uint32_t bits;
};

template <class T>
CF_HD T cast(float v);

template <>
CF_HD float cast<float>(float v) {
  return v;
}

// Round to nearest, ties to even; v is finite.
template <>
CF_HD BFloat16 cast<BFloat16>(float v) {
  FloatBits x;
  x.value = v;
  return BFloat16{static_cast<uint16_t>((x.bits + 0x7FFFu + ((x.bits >> 16) & 1u)) >> 16)};
}

template <>
CF_HD Float16 cast<Float16>(float v) {
  FloatBits x;
  x.value = v;
  const uint32_t sign = (x.bits >> 16) & 0x8000u;
  x.bits &= 0x7FFFFFFFu;
  uint32_t magnitude;
  if (x.bits >= 0x47800000u) {  // 65536 and above
    magnitude = 0x7C00u;
  } else if (x.bits < 0x38800000u) {  // subnormal in half precision: adding 0.5 leaves multiples of 2^-24
    x.value += 0.5f;
    magnitude = x.bits - 0x3F000000u;
  } else {
    magnitude = (x.bits - 0x38000000u + 0xFFFu + ((x.bits >> 13) & 1u)) >> 13;
  }
  return Float16{static_cast<uint16_t>(sign | magnitude)};
}

}  // namespace cifarfast
