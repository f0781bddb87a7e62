// Operations on one uint8 image [height, width, channels], worked on by a team: one thread on a CPU, a block on a GPU.
//
// A team has rank(), size(), sync() and add(int*, int). Every loop is `for (i = rank; i < n; i += size)`.
#pragma once

#include "geometry.h"

namespace cifarfast {

struct Image {
  int height, width, channels;
  CF_HD int pixels() const { return height * width; }
  CF_HD int bytes() const { return height * width * channels; }
};

CF_HD uint8_t to_byte(float v) { return static_cast<uint8_t>(clamp(v, 0.0f, 255.0f)); }

CF_HD uint8_t blend(float v, float other, float factor) { return to_byte(v * factor + other * (1.0f - factor)); }

CF_HD int grey(const uint8_t* pixel, int channels) {
  if (channels != 3) return pixel[0];
  return static_cast<int>((0.2989f * pixel[0] + 0.587f * pixel[1]) + 0.114f * pixel[2]);
}

// Operations that change each channel's value by a table of 256 entries.
CF_HD bool is_table(int kind) {
  return kind == kBrightness || kind == kContrast || kind == kPosterize || kind == kSolarize || kind == kInvert ||
         kind == kAutoContrast || kind == kEqualize;
}

CF_HD uint8_t table_entry(int kind, float value, int v, float mean, int low, int high) {
  switch (kind) {
    case kBrightness:
      return to_byte(static_cast<float>(v) * value);
    case kContrast:
      return blend(static_cast<float>(v), mean, value);
    case kPosterize:
      return static_cast<uint8_t>(v & (0xFF00 >> static_cast<int>(value)));
    case kSolarize:
      return static_cast<uint8_t>(static_cast<float>(v) >= value ? 255 - v : v);
    case kInvert:
      return static_cast<uint8_t>(255 - v);
    default:  // auto-contrast
      if (low >= high) return static_cast<uint8_t>(v);
      return to_byte(static_cast<float>(v - low) / (static_cast<float>(high - low) * 0.003921568859368563f));
  }
}

CF_HD void equalize_table(const int* histogram, int pixels, uint8_t* table) {
  int last = 255;
  while (last > 0 && histogram[last] == 0) --last;
  const int step = (pixels - histogram[last]) / 255;
  int below = 0;
  for (int v = 0; v < 256; ++v) {
    table[v] = static_cast<uint8_t>(step == 0 ? v : clamp((below + step / 2) / step, 0, 255));
    below += histogram[v];
  }
}

template <class Team>
CF_HD void count_values(const Team& team, const uint8_t* pixels, const Image& image, int* histogram) {
  for (int i = team.rank(); i < 256 * image.channels; i += team.size()) histogram[i] = 0;
  team.sync();
  for (int p = team.rank(); p < image.pixels(); p += team.size())
    for (int c = 0; c < image.channels; ++c) team.add(histogram + 256 * c + pixels[p * image.channels + c], 1);
  team.sync();
}

template <class Team>
CF_HD float mean_grey(const Team& team, const uint8_t* pixels, const Image& image, int* sum) {
  if (team.rank() == 0) *sum = 0;
  team.sync();
  int mine = 0;
  for (int p = team.rank(); p < image.pixels(); p += team.size())
    mine += grey(pixels + p * image.channels, image.channels);
  team.add(sum, mine);
  team.sync();
  return static_cast<float>(*sum) / static_cast<float>(image.pixels());
}

// In place, through a table [channels, 256] that is built first.
template <class Team>
CF_HD void apply_table(const Team& team, const Step& step, uint8_t* pixels, const Image& image, int* histogram,
                       uint8_t* table, int* sum) {
  const bool counts = step.kind == kAutoContrast || step.kind == kEqualize;
  if (counts) count_values(team, pixels, image, histogram);
  const float mean = step.kind == kContrast ? mean_grey(team, pixels, image, sum) : 0.0f;
  for (int c = 0; c < image.channels; ++c) {
    if (step.kind == kEqualize) {
      if (team.rank() == c % team.size()) equalize_table(histogram + 256 * c, image.pixels(), table + 256 * c);
      continue;
    }
    int low = 0, high = 255;
    if (counts) {
      while (low < 255 && histogram[256 * c + low] == 0) ++low;
      while (high > 0 && histogram[256 * c + high] == 0) --high;
    }
    for (int v = team.rank(); v < 256; v += team.size())
      table[256 * c + v] = table_entry(step.kind, step.value, v, mean, low, high);
  }
  team.sync();
  for (int p = team.rank(); p < image.pixels(); p += team.size())
    for (int c = 0; c < image.channels; ++c) {
      uint8_t& v = pixels[p * image.channels + c];
      v = table[256 * c + v];
    }
  team.sync();
}

// Saturation, in place: blend with the pixel's grey value.
template <class Team>
CF_HD void apply_color(const Team& team, float factor, uint8_t* pixels, const Image& image) {
  if (image.channels == 3)
    for (int p = team.rank(); p < image.pixels(); p += team.size()) {
      uint8_t* pixel = pixels + 3 * p;
      const float other = static_cast<float>(grey(pixel, 3));
      for (int c = 0; c < 3; ++c) pixel[c] = blend(static_cast<float>(pixel[c]), other, factor);
    }
  team.sync();
}

// Blend with a 3×3 blur (1 1 1, 1 5 1, 1 1 1) / 13; the outermost pixels stay.
template <class Team>
CF_HD void apply_sharpness(const Team& team, float factor, const uint8_t* from, uint8_t* to, const Image& image) {
  const int row = image.width * image.channels;
  for (int y = 0; y < image.height; ++y) {
    const bool border = y == 0 || y == image.height - 1;
    for (int i = team.rank(); i < row; i += team.size()) {
      const uint8_t* at = from + y * row + i;
      uint8_t v = *at;
      if (!border && i >= image.channels && i < row - image.channels) {
        int sum = 4 * v;
        for (int dy = -1; dy <= 1; ++dy)
          sum += at[dy * row - image.channels] + at[dy * row] + at[dy * row + image.channels];
        const float blurred = static_cast<float>((2 * sum + 13) / 26);
        v = to_byte(static_cast<float>(v) + (1.0f - factor) * (blurred - static_cast<float>(v)));
      }
      to[y * row + i] = v;
    }
  }
  team.sync();
}

CF_HD float tap(const uint8_t* pixels, const Image& image, int y, int x, int c) {
  if (y < 0 || y >= image.height || x < 0 || x >= image.width) return 0.0f;
  return static_cast<float>(pixels[(y * image.width + x) * image.channels + c]);
}

// An affine map with bilinear interpolation; what lies outside the image is 0.
template <class Team>
CF_HD void apply_bilinear(const Team& team, const Step& step, const uint8_t* from, uint8_t* to, const Image& image) {
  for (int p = team.rank(); p < image.pixels(); p += team.size()) {
    const int y = p / image.width, x = p - y * image.width;
    const float source_y = map_y(step, y, x, image.height, image.width);
    const float source_x = map_x(step, y, x, image.height, image.width);
    const int y0 = floor_int(source_y), x0 = floor_int(source_x);
    const float wy = source_y - static_cast<float>(y0), wx = source_x - static_cast<float>(x0);
    const float w00 = (1.0f - wy) * (1.0f - wx), w01 = (1.0f - wy) * wx, w10 = wy * (1.0f - wx), w11 = wy * wx;
    for (int c = 0; c < image.channels; ++c) {
      const float upper = w00 * tap(from, image, y0, x0, c) + w01 * tap(from, image, y0, x0 + 1, c);
      const float lower = w10 * tap(from, image, y0 + 1, x0, c) + w11 * tap(from, image, y0 + 1, x0 + 1, c);
      to[p * image.channels + c] = to_byte(round_even(upper + lower));
    }
  }
  team.sync();
}

}  // namespace cifarfast
