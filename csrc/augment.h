// One augmented image: plan and pictures, then its pixels: normalise, cut out, mix, cast.
//
// Written once for both processors. Compile without contraction of a·b + c (-ffp-contract=off, --fmad=false): then a
// CPU and a GPU give the same bits.
#pragma once

#include "cast.h"
#include "picture.h"

namespace cifarfast {

// The bytes of one output pixel of a resized picture, which has no moves left.
CF_HD void read_resized(const Job& job, const uint8_t* pixels, int y, int x, uint8_t (&value)[kMaxChannels]) {
  const Image image{job.height, job.width, job.channels};
  if (job.nearest_resize) {
    const int source = (y * image.height / job.out_height) * image.width + x * image.width / job.out_width;
    for (int c = 0; c < image.channels; ++c) value[c] = pixels[source * image.channels + c];
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
    const float upper = tap(pixels, image, y0, x0, c) * (1.0f - wx) + tap(pixels, image, y0, x1, c) * wx;
    const float lower = tap(pixels, image, y1, x0, c) * (1.0f - wx) + tap(pixels, image, y1, x1, c) * wx;
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

struct Normaliser {
  float scale[kMaxChannels], bias[kMaxChannels];
};

CF_HD Normaliser normaliser(const Job& job) {
  Normaliser n{};
  for (int c = 0; c < kMaxChannels; ++c) {
    if (c >= job.channels) continue;
    n.scale[c] = job.scale_bias[c];
    n.bias[c] = job.scale_bias[job.channels + c];
  }
  return n;
}

// The normalised values of output pixel (y, x) of picture k. The loops here and below have a fixed count, which keeps
// their arrays in registers.
CF_HD void read_values(const Job& job, const Plan& plan, const Tabulated& picture, const Normaliser& n, int k, int y,
                       int x, float (&values)[kMaxChannels]) {
  const bool hole = in_hole(plan, k, y, x);
  uint8_t bytes[kMaxChannels] = {};
  if (job.out_height != job.height || job.out_width != job.width) {
    read_resized(job, picture.pixels, y, x, bytes);
  } else if (const uint8_t* pixel = find(picture, Image{job.height, job.width, job.channels}, y, x)) {
    for (int c = 0; c < kMaxChannels; ++c)
      if (c < job.channels) bytes[c] = pixel[c];
  }
  for (int c = 0; c < kMaxChannels; ++c)
    values[c] = hole ? 0.0f : static_cast<float>(bytes[c]) * n.scale[c] + n.bias[c];
}

// One output pixel of the finished image; channels beyond the image's are 0.
template <class T>
CF_HD void write_pixel(const Job& job, const Plan& plan, const Tabulated& first, const Tabulated& second,
                       const Normaliser& n, int y, int x, T* out) {
  float result[kMaxChannels];
  const bool pasted = plan.pictures == 2 && plan.box_mix && contains(plan.box, y, x);
  read_values(job, plan, pasted ? second : first, n, pasted ? 1 : 0, y, x, result);
  if (plan.pictures == 2 && !plan.box_mix) {
    float other[kMaxChannels];
    read_values(job, plan, second, n, 1, y, x, other);
    for (int c = 0; c < kMaxChannels; ++c) result[c] = mixed(result[c], other[c], plan.lam);
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
// kStaged: the job has operations on images of their own; without them the code for those is left out.
template <class T, bool kStaged, class Team>
CF_HD void render(const Team& team, const Job& job, int64_t position, const Workspace& space, Plan& plan, T* out) {
  make_plan(team, job, position, plan);
  const Image image{job.height, job.width, job.channels};
  Picture pictures[2];
  if constexpr (kStaged) {
    make_pictures(team, job, plan, space, pictures, GatherPixels{space.axes});
  } else {
    for (int k = 0; k < 2; ++k)
      pictures[k] =
          Picture{job.images + plan.source[k] * image.bytes(), plan.steps[k], plan.plain ? 0 : job.step_count};
  }
  const Tabulated first = tabulate(team, pictures[0], image, space.axes);
  Tabulated second = first;
  if (plan.pictures == 2) second = tabulate(team, pictures[1], image, space.axes + image.height + image.width);
  const Normaliser n = normaliser(job);
  for (Walk at(team, job.out_width); at.y < job.out_height; at.step(team, job.out_width))
    write_pixel<T>(job, plan, first, second, n, at.y, at.x, out);
  write_labels(team, job, plan, position);
}

}  // namespace cifarfast
