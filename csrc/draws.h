// From random words to the parameters of every operation of one sample.
#pragma once

#include "geometry.h"

namespace cifarfast {

// The parameters of one output image and of the picture it is mixed with.
struct Plan {
  int64_t key[2];     // sample index of each picture, what its draws are keyed by
  int64_t source[2];  // image each picture is made from
  int pictures;       // 1, or 2 when mixed
  int plain;          // the untouched half of an augmented copy
  int box_mix;        // CutMix rather than Mixup
  float lam;
  Box box;
  int hole_count[2];
  Box holes[2][kMaxHoles];
  Step steps[2][kMaxSteps];
  int sum;
};

struct Sampler {
  uint64_t seed;
  uint32_t epoch, index;
  CF_HD Words words(int block) const {
    return philox_4x32(seed, index, epoch, kPurposeAugment, static_cast<uint32_t>(block));
  }
};

CF_HD Sampler sampler(const Job& job, int64_t index) {
  return Sampler{job.seed, static_cast<uint32_t>(*job.epoch), static_cast<uint32_t>(index)};
}

// A policy entry or a row of one pixel operation with its magnitude becomes a step.
CF_HD void set_step(Step& step, int kind, float magnitude, bool bilinear, int height, int width) {
  step.kind = kind;
  step.value = magnitude;
  if (kind == kTranslateX || kind == kTranslateY) {
    const int pixels = static_cast<int>(magnitude);
    step.kind = kCrop;
    step.padded = kPadZero;
    step.dy = kind == kTranslateY ? -pixels : 0;
    step.dx = kind == kTranslateX ? -pixels : 0;
  } else if (kind == kRotate) {
    step.kind = bilinear ? kBilinearMap : kNearestMap;
    set_affine(step, Affine{-magnitude, 0.0f, 0.0f, 1.0f, 0.0f, 0.0f}, height, width);
  } else if (kind == kShearX || kind == kShearY) {
    // by the slope `magnitude`, about the top left corner
    const float half_width = static_cast<float>(width) * 0.5f, half_height = static_cast<float>(height) * 0.5f;
    const float slope_x = kind == kShearX ? magnitude : 0.0f, slope_y = kind == kShearY ? magnitude : 0.0f;
    step.kind = bilinear ? kBilinearMap : kNearestMap;
    step.map[0] = 1.0f;
    step.map[1] = slope_x;
    step.map[2] = slope_x * half_height + (half_width - 0.5f);
    step.map[3] = slope_y;
    step.map[4] = 1.0f;
    step.map[5] = slope_y * half_width + (half_height - 0.5f);
  }
}

CF_HD void resolve_affine(const Job& job, const float* row, int block, const Sampler& draw, Step& step) {
  const Words first = draw.words(block), second = draw.words(block + 1);
  const float width = static_cast<float>(job.width), height = static_cast<float>(job.height);
  const float degrees = between(first.word[0], row[2], row[3]);
  Affine a;
  a.degrees = row[13] != 0.0f ? -degrees : degrees;
  a.translate_x = round_even(between(first.word[1], -row[4] * width, row[4] * width));
  a.translate_y = round_even(between(first.word[2], -row[5] * height, row[5] * height));
  a.scale = between(first.word[3], row[6], row[7]);
  a.shear_x = between(second.word[0], row[8], row[9]);
  a.shear_y = between(second.word[1], row[10], row[11]);
  if (uniform(second.word[2]) < row[1]) {
    step.kind = row[12] != 0.0f ? kBilinearMap : kNearestMap;
    set_affine(step, a, job.height, job.width);
  }
}

CF_HD void resolve_policy(const Job& job, const float* row, int block, const Sampler& draw, Step* steps) {
  const int rounds = static_cast<int>(row[4]), entries = static_cast<int>(row[5]);
  const int per_entry = static_cast<int>(row[6]), start = static_cast<int>(row[8]);
  for (int round = 0; round < rounds; ++round) {
    const Words words = draw.words(block + round);
    const int64_t chosen = randint(words.word[0], entries);
    for (int k = 0; k < per_entry; ++k) {
      const float* entry = job.policy + 4 * (start + chosen * per_entry + k);
      if (uniform(words.word[1 + k]) >= entry[1]) continue;
      const int sign = static_cast<int>(entry[3]);
      const bool negative = sign != kSignNone && ((words.word[3] >> (31 - k)) & 1u) != 0u;
      const float magnitude = negative ? -entry[2] : entry[2];
      set_step(steps[round * per_entry + k], static_cast<int>(entry[0]),
               sign == kSignFactor ? 1.0f + magnitude : magnitude, row[7] != 0.0f, job.height, job.width);
    }
  }
}

// Resolve row `number` of the program for one sample into its steps.
CF_HD void resolve_row(const Job& job, int number, const Sampler& draw, Step* steps) {
  const float* row = job.rows + number * kFields;
  const int kind = static_cast<int>(row[0]), block = number * kBlocksPerRow;
  Step* mine = steps + static_cast<int>(row[kFields - 1]);
  const int last = number + 1 < job.row_count ? static_cast<int>(row[2 * kFields - 1]) : job.step_count;
  for (Step* s = mine; s < steps + last; ++s) s->kind = kIdentity;
  if (kind == kPolicy) return resolve_policy(job, row, block, draw, mine);
  if (kind == kAffine) return resolve_affine(job, row, block, draw, *mine);
  const Words words = draw.words(block);
  if (kind == kCrop) {
    const int padding = static_cast<int>(row[4]);
    mine->kind = kCrop;
    mine->padded = static_cast<int>(row[5]);
    mine->dy = static_cast<int>(randint(words.word[0], 2 * padding + 1)) - padding + static_cast<int>(row[6]);
    mine->dx = static_cast<int>(randint(words.word[1], 2 * padding + 1)) - padding + static_cast<int>(row[7]);
  } else if (kind == kFlip) {
    if (uniform(words.word[0]) < row[1]) mine->kind = kFlip;
  } else if (kind == kAlternatingFlip) {
    const Words first_epoch = Sampler{draw.seed, 0u, draw.index}.words(block);
    if (((first_epoch.word[0] + draw.epoch) & 1u) != 0u) mine->kind = kFlip;
  } else if (uniform(words.word[0]) < row[1]) {
    set_step(*mine, kind, between(words.word[1], row[2], row[3]), row[4] != 0.0f, job.height, job.width);
  }
}

CF_HD Box clipped(int y1, int y2, int x1, int x2, int height, int width) {
  return Box{y1 < 0 ? 0 : y1, y2 > height ? height : y2, x1 < 0 ? 0 : x1, x2 > width ? width : x2};
}

// The same box in pixels of the resized output: the pixels whose nearest source pixel lies inside.
CF_HD Box to_output(const Job& job, const Box& box) {
  const int h = job.height, w = job.width, oh = job.out_height, ow = job.out_width;
  return Box{(box.y1 * oh + h - 1) / h, (box.y2 * oh + h - 1) / h, (box.x1 * ow + w - 1) / w,
             (box.x2 * ow + w - 1) / w};
}

CF_HD Box draw_hole(const Job& job, const Sampler& draw, int number) {
  const Words words = draw.words(kCutoutBlock + number);
  const int y1 = static_cast<int>(randint(words.word[0], job.height)) - job.cutout_length / 2;
  const int x1 = static_cast<int>(randint(words.word[1], job.width)) - job.cutout_length / 2;
  return to_output(job, clipped(y1, y1 + job.cutout_length, x1, x1 + job.cutout_length, job.height, job.width));
}

// Another image of the pool, never the sample itself.
CF_HD int64_t draw_partner(const Job& job, const Sampler& draw, int64_t source) {
  const int64_t size = job.pool != nullptr ? job.pool_size : job.count;
  int64_t position = randint(draw.words(kMixBlock + 1).word[0], size);
  int64_t partner = job.pool != nullptr ? job.pool[position] : position;
  if (partner == source) {
    position = position + 1 < size ? position + 1 : 0;
    partner = job.pool != nullptr ? job.pool[position] : position;
  }
  return partner;
}

CF_HD float beta_quantile(const float* table, uint32_t bits) {
  const uint32_t k = bits >> 20;
  const float t = static_cast<float>(bits & 0xFFFFFu) * (1.0f / 1048576.0f);
  return table[k] + (table[k + 1] - table[k]) * t;
}

CF_HD float root(float v) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(v);
#else
  return __builtin_sqrtf(v);
#endif
}

// Many images may report at once.
CF_HD void report_bad_index(const Job& job) {
#if defined(__CUDA_ARCH__)
  *job.bad_index = 1;
#else
  __atomic_store_n(job.bad_index, 1, __ATOMIC_RELAXED);
#endif
}

// Whether and how this sample is mixed; fills plan.pictures, lam, box and the partner.
CF_HD void draw_mix(const Job& job, int64_t index, Plan& plan) {
  const Sampler own = sampler(job, index);
  const Sampler shared = job.mix_per_batch ? sampler(job, job.batch_key[0]) : own;
  const Words words = shared.words(kMixBlock);
  const float epoch = static_cast<float>(own.epoch);
  const float box_p = epoch >= job.settings[kCutMixStart] ? job.settings[kCutMixP] : 0.0f;
  const float blend_p = epoch >= job.settings[kMixupStart] ? job.settings[kMixupP] : 0.0f;
  const float u = uniform(words.word[0]);
  if (!(u < box_p + blend_p)) return;
  const int64_t partner = draw_partner(job, own, plan.source[0]);
  if (partner < 0 || partner >= job.count) {
    report_bad_index(job);
    return;
  }
  plan.pictures = 2;
  plan.source[1] = partner;
  plan.key[1] = job.augmented_copy ? partner + job.count : partner;
  plan.box_mix = u < box_p;
  plan.lam = beta_quantile(job.quantiles + (plan.box_mix ? 0 : kBetaIntervals + 1), words.word[1]);
  if (!plan.box_mix) return;
  const int x = static_cast<int>(randint(words.word[2], job.width));
  const int y = static_cast<int>(randint(words.word[3], job.height));
  const float half = 0.5f * root(1.0f - plan.lam);
  const int half_x = static_cast<int>(half * static_cast<float>(job.width));
  const int half_y = static_cast<int>(half * static_cast<float>(job.height));
  const Box box = clipped(y - half_y, y + half_y, x - half_x, x + half_x, job.height, job.width);
  const int area = (box.y2 - box.y1) * (box.x2 - box.x1);
  plan.lam = 1.0f - static_cast<float>(area) / static_cast<float>(job.height * job.width);
  plan.box = to_output(job, box);
}

}  // namespace cifarfast
