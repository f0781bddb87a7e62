// One augmented image: plan (draws), picture (uint8 operations in order), pixels (normalise, cut out, mix, cast).
//
// Written once for both processors. Compile without contraction of a·b + c (-ffp-contract=off, --fmad=false): then a CPU
// and a GPU give the same bits.
#pragma once

#include "draws.h"
#include "pixel_ops.h"

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

// What one team works in. buffers: three images of uint8; histogram: [channels, 256]; table: [channels, 256].
struct Workspace {
  uint8_t* buffers[3];
  int* histogram;
  uint8_t* table;
};

// Pixels, and the steps still to be followed back when one is read.
struct Picture {
  const uint8_t* pixels;
  const Step* moves;
  int move_count;
};

template <class Team>
CF_HD void make_plan(const Team& team, const Job& job, int64_t position, Plan& plan) {
  if (team.rank() == 0) {
    int64_t index = job.indices[position];
    const int64_t limit = job.augmented_copy ? 2 * job.count : job.count;
    if (index < 0 || index >= limit) {
      report_bad_index(job);
      index = 0;
    }
    plan.plain = job.augmented_copy && index < job.count;
    plan.key[0] = index;
    plan.source[0] = job.augmented_copy && index >= job.count ? index - job.count : index;
    plan.source[1] = plan.source[0];
    plan.pictures = 1;
    plan.lam = 1.0f;
    plan.box_mix = 0;
    if (job.mixes && !plan.plain) draw_mix(job, index, plan);
    for (int k = 0; k < plan.pictures; ++k) {
      const bool cut = job.cutout_count > 0 && !plan.plain &&
                       uniform(sampler(job, plan.key[k]).words(kCutoutBlock).word[2]) < job.settings[kCutoutP];
      plan.hole_count[k] = cut ? job.cutout_count : 0;
    }
  }
  team.sync();
  if (plan.plain) return;
  const int rows = job.row_count;
  const int per_picture = rows + job.cutout_count;
  for (int i = team.rank(); i < plan.pictures * per_picture; i += team.size()) {
    const int k = i / per_picture, task = i - k * per_picture;
    const Sampler draw = sampler(job, plan.key[k]);
    if (task < rows)
      resolve_row(job, task, draw, plan.steps[k]);
    else if (task - rows < plan.hole_count[k])
      plan.holes[k][task - rows] = draw_hole(job, draw, task - rows);
  }
  team.sync();
}

// Follow a picture's moves and write the image they give.
struct GatherPixels {
  template <class Team>
  CF_HD void operator()(const Team& team, const Picture& picture, const Image& image, uint8_t* to) const {
    for (int p = team.rank(); p < image.pixels(); p += team.size()) {
      int y = p / image.width, x = p - y * image.width;
      const bool inside = trace(picture.moves, picture.move_count, image.height, image.width, y, x);
      const uint8_t* from = picture.pixels + (inside ? y * image.width + x : 0) * image.channels;
      for (int c = 0; c < image.channels; ++c) to[p * image.channels + c] = inside ? from[c] : 0;
    }
    team.sync();
  }
};

// Run the steps on one image. The picture returned lies in one of the two buffers, or is the source with moves to follow;
// `flatten` asks for no moves left. `Gather` is GatherPixels or a faster one for one thread.
template <class Team, class Gather>
CF_HD Picture run_steps(const Team& team, const Step* steps, int count, const uint8_t* source, const Image& image,
                        uint8_t* const (&own)[2], const Workspace& space, int* sum, bool flatten, const Gather& take) {
  const uint8_t* current = source;
  int held = -1, first = 0;
  for (int s = 0; s <= count; ++s) {
    const bool end = s == count;
    if (!end && moves_only(steps[s].kind)) continue;
    if (end && !(flatten && first < count)) break;
    bool moved = held < 0 && !end;  // operations work on a buffer, not on the data set
    for (int k = first; k < s; ++k) moved = moved || steps[k].kind != kIdentity;
    if (moved) {
      held = held == 0 ? 1 : 0;
      take(team, Picture{current, steps + first, s - first}, image, own[held]);
      current = own[held];
    }
    first = s + 1;
    if (end) break;
    const Step& step = steps[s];
    uint8_t* pixels = own[held];
    uint8_t* other = own[1 - held];
    if (is_table(step.kind)) {
      apply_table(team, step, pixels, image, space.histogram, space.table, sum);
    } else if (step.kind == kColor) {
      apply_color(team, step.value, pixels, image);
    } else {
      if (step.kind == kSharpness)
        apply_sharpness(team, step.value, pixels, other, image);
      else
        apply_bilinear(team, step, pixels, other, image);
      held = 1 - held;
      current = other;
    }
  }
  return Picture{current, steps + first, first < count ? count - first : 0};
}

// Both pictures of a plan. The second works in the buffers that the first does not hold.
template <class Team, class Gather>
CF_HD void make_pictures(const Team& team, const Job& job, Plan& plan, const Workspace& space, Picture (&pictures)[2],
                         const Gather& take) {
  const Image image{job.height, job.width, job.channels};
  const bool flatten = job.out_height != job.height || job.out_width != job.width;
  const int steps = plan.plain ? 0 : job.step_count;
  uint8_t* own[2] = {space.buffers[0], space.buffers[1]};
  for (int k = 0; k < plan.pictures; ++k) {
    if (k == 1) {
      if (pictures[0].pixels == own[0]) own[0] = space.buffers[2];
      else if (pictures[0].pixels == own[1]) own[1] = space.buffers[2];
    }
    const uint8_t* source = job.images + plan.source[k] * image.bytes();
    pictures[k] = run_steps(team, plan.steps[k], steps, source, image, own, space, &plan.sum, flatten, take);
  }
}

// The bytes of one output pixel before normalisation; a resized one reads a picture without moves.
CF_HD void read_pixel(const Job& job, const Picture& picture, int y, int x, uint8_t (&value)[kMaxChannels]) {
  const Image image{job.height, job.width, job.channels};
  if (job.out_height == job.height && job.out_width == job.width) {
    const bool inside = trace(picture.moves, picture.move_count, image.height, image.width, y, x);
    const uint8_t* from = picture.pixels + (inside ? y * image.width + x : 0) * image.channels;
    for (int c = 0; c < kMaxChannels; ++c)  // a fixed count keeps the array in registers
      if (c < image.channels) value[c] = inside ? from[c] : 0;
    return;
  }
  if (job.nearest_resize) {
    const int source = (y * image.height / job.out_height) * image.width + x * image.width / job.out_width;
    for (int c = 0; c < image.channels; ++c) value[c] = picture.pixels[source * image.channels + c];
    return;
  }
  const float ratio_y = static_cast<float>(image.height) / static_cast<float>(job.out_height);
  const float ratio_x = static_cast<float>(image.width) / static_cast<float>(job.out_width);
  const float at_y = clamp((static_cast<float>(y) + 0.5f) * ratio_y - 0.5f, 0.0f, static_cast<float>(image.height - 1));
  const float at_x = clamp((static_cast<float>(x) + 0.5f) * ratio_x - 0.5f, 0.0f, static_cast<float>(image.width - 1));
  const int y0 = static_cast<int>(at_y), x0 = static_cast<int>(at_x);
  const int y1 = y0 + 1 < image.height ? y0 + 1 : y0, x1 = x0 + 1 < image.width ? x0 + 1 : x0;
  const float wy = at_y - static_cast<float>(y0), wx = at_x - static_cast<float>(x0);
  for (int c = 0; c < image.channels; ++c) {
    const float upper = tap(picture.pixels, image, y0, x0, c) * (1.0f - wx) + tap(picture.pixels, image, y0, x1, c) * wx;
    const float lower = tap(picture.pixels, image, y1, x0, c) * (1.0f - wx) + tap(picture.pixels, image, y1, x1, c) * wx;
    value[c] = to_byte(round_even(upper * (1.0f - wy) + lower * wy));
  }
}

CF_HD bool contains(const Box& box, int y, int x) { return y >= box.y1 && y < box.y2 && x >= box.x1 && x < box.x2; }

CF_HD bool in_hole(const Plan& plan, int k, int y, int x) {
  for (int h = 0; h < (plan.plain ? 0 : plan.hole_count[k]); ++h)
    if (contains(plan.holes[k][h], y, x)) return true;
  return false;
}

CF_HD float mixed(float a, float b, float lam) { return a * lam + b * (1.0f - lam); }

// One output pixel of the finished image, written with the given strides; channels beyond the image's are 0.
template <class T>
CF_HD void write_pixel(const Job& job, const Plan& plan, const Picture (&pictures)[2], int y, int x, T* out) {
  float result[kMaxChannels] = {};
  const bool boxed = plan.pictures == 2 && plan.box_mix;
  const int from = boxed && contains(plan.box, y, x) ? 1 : 0;
  const int until = plan.pictures == 2 && !boxed ? 2 : from + 1;
  for (int k = from; k < until; ++k) {
    uint8_t value[kMaxChannels] = {};
    const bool hole = in_hole(plan, k, y, x);
    if (!hole) read_pixel(job, pictures[k], y, x, value);
    for (int c = 0; c < kMaxChannels; ++c) {
      if (c >= job.channels) continue;
      const float v = hole ? 0.0f : static_cast<float>(value[c]) * job.scale_bias[c] + job.scale_bias[job.channels + c];
      result[c] = k == from ? v : mixed(result[c], v, plan.lam);
    }
  }
  const int pixel = y * job.out_width + x;
  const int pixel_stride = job.channels_last ? job.out_channels : 1;
  const int channel_stride = job.channels_last ? 1 : job.out_height * job.out_width;
  for (int c = 0; c < kMaxChannels; ++c)
    if (c < job.out_channels) out[pixel * pixel_stride + c * channel_stride] = cast<T>(result[c]);
  for (int c = kMaxChannels; c < job.out_channels; ++c) out[pixel * pixel_stride + c * channel_stride] = cast<T>(0.0f);
}

template <class Team>
CF_HD void write_labels(const Team& team, const Job& job, const Plan& plan, int64_t position) {
  if (team.rank() != 0) return;
  job.labels_a[position] = job.labels[plan.source[0]];
  if (!job.mixes) return;
  job.labels_b[position] = job.labels[plan.source[1]];
  job.lam[position] = plan.lam;
}

// The whole of one image by one team; `out` is its [out_height, out_width, out_channels] (or channels-first) block.
template <class T, class Team>
CF_HD void render(const Team& team, const Job& job, int64_t position, const Workspace& space, Plan& plan, T* out) {
  make_plan(team, job, position, plan);
  Picture pictures[2];
  make_pictures(team, job, plan, space, pictures, GatherPixels());
  for (int p = team.rank(); p < job.out_height * job.out_width; p += team.size())
    write_pixel<T>(job, plan, pictures, p / job.out_width, p % job.out_width, out);
  write_labels(team, job, plan, position);
}

}  // namespace cifarfast
