// The CPU's way through augment.h: whole rows at a time, so that copies are memcpy and arithmetic is vectorised.
// It gives the same bits as render().
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "augment.h"

namespace cifarfast {

struct OneThread {
  int rank() const { return 0; }
  int size() const { return 1; }
  void sync() const {}
  void add(int* target, int value) const { *target += value; }
};

// Reads rows of a picture. Leading crops and flips act on rows and columns separately and become two tables.
class RowReader {
 public:
  explicit RowReader(const Image& image)
      : image_(image), row_of_(image.height), column_of_(image.width), from_y_(image.width), from_x_(image.width) {}

  void open(const Picture& picture) {
    picture_ = picture;
    lead_ = lead_count(picture);
    flips_ = false;
    shifts_ = false;
    for (int k = 0; k < lead_; ++k) {
      flips_ ^= picture.moves[k].kind == kFlip;
      shifts_ |= picture.moves[k].kind == kCrop;
    }
    const bool reordered = flips_ || shifts_;
    for (int y = 0; y < image_.height; ++y)
      row_of_[y] = shifts_ ? lead_index(picture.moves, lead_, y, image_.height, true) : y;
    for (int x = 0; x < image_.width; ++x)
      column_of_[x] = reordered ? lead_index(picture.moves, lead_, x, image_.width, false) : x;
    first_ = 0;
    last_ = image_.width;
    while (first_ < last_ && column_of_[first_] < 0) ++first_;
    while (last_ > first_ && column_of_[last_ - 1] < 0) --last_;
    contiguous_ = true;
    for (int x = first_ + 1; x < last_; ++x) contiguous_ &= column_of_[x] == column_of_[x - 1] + 1;
  }

  void read(int y, uint8_t* to) {
    if (lead_ < picture_.move_count) return image_.channels == 3 ? read_mapped<3>(y, to) : read_mapped<1>(y, to);
    const int channels = image_.channels;
    const int source = row_of_[y];
    if (source < 0 || last_ == first_) {
      std::memset(to, 0, static_cast<size_t>(image_.width) * channels);
      return;
    }
    const uint8_t* from = picture_.pixels + static_cast<size_t>(source) * image_.width * channels;
    if (!contiguous_) return channels == 3 ? read_columns<3>(from, to) : read_columns<1>(from, to);
    std::memset(to, 0, static_cast<size_t>(first_) * channels);
    std::memcpy(to + first_ * channels, from + column_of_[first_] * channels,
                static_cast<size_t>(last_ - first_) * channels);
    std::memset(to + last_ * channels, 0, static_cast<size_t>(image_.width - last_) * channels);
  }

 private:
  template <int C>
  void read_columns(const uint8_t* from, uint8_t* to) const {
    for (int x = 0; x < image_.width; ++x) {
      const int source = column_of_[x];
      for (int c = 0; c < C; ++c) to[C * x + c] = source < 0 ? 0 : from[C * source + c];
    }
  }

  template <int C>
  void read_mapped(int y, uint8_t* to) {
    const int height = image_.height, width = image_.width;
    const Step* moves = picture_.moves + lead_;
    const int count = picture_.move_count - lead_;
    if (count == 1) {
      const Step step = *moves;
      for (int x = 0; x < width; ++x) {
        from_y_[x] = static_cast<int>(round_even(map_y(step, y, x, height, width)));
        from_x_[x] = static_cast<int>(round_even(map_x(step, y, x, height, width)));
      }
    } else {
      for (int x = 0; x < width; ++x) {
        int at_y = y, at_x = x;
        from_y_[x] = trace(moves, count, height, width, at_y, at_x) ? at_y : -1;
        from_x_[x] = at_x;
      }
    }
    for (int x = 0; x < width; ++x) {
      const int at_y = from_y_[x], at_x = from_x_[x];
      const bool inside = at_y >= 0 && at_y < height && at_x >= 0 && at_x < width;
      const int row = inside ? row_of_[at_y] : -1, column = inside ? column_of_[at_x] : -1;
      const bool shown = row >= 0 && column >= 0;
      const uint8_t* from = picture_.pixels + (shown ? (row * width + column) * C : 0);
      for (int c = 0; c < C; ++c) to[C * x + c] = shown ? from[c] : 0;
    }
  }

  Image image_;
  Picture picture_{};
  std::vector<int> row_of_, column_of_, from_y_, from_x_;
  int lead_ = 0, first_ = 0, last_ = 0;
  bool flips_ = false, shifts_ = false, contiguous_ = true;
};

struct GatherRows {
  RowReader* reader;
  void operator()(const OneThread&, const Picture& picture, const Image& image, uint8_t* to) const {
    reader->open(picture);
    for (int y = 0; y < image.height; ++y) reader->read(y, to + static_cast<size_t>(y) * image.width * image.channels);
  }
};

// Normalises, cuts out, mixes and stores rows of one job.
class RowWriter {
 public:
  explicit RowWriter(const Job& job)
      : job_(job), image_{job.height, job.width, job.channels}, readers_{RowReader(image_), RowReader(image_)} {
    const size_t row = static_cast<size_t>(job.out_width) * job.channels;
    bytes_.resize(row);
    for (auto& values : values_) values.resize(row);
    for (size_t i = 0; i < row; ++i) {
      scale_.push_back(job.scale_bias[i % job.channels]);
      bias_.push_back(job.scale_bias[job.channels + i % job.channels]);
    }
  }

  template <class T>
  void write(const Plan& plan, const Picture (&pictures)[2], T* out) {
    const bool resized = job_.out_height != job_.height || job_.out_width != job_.width;
    for (int k = 0; k < plan.pictures; ++k)
      if (!resized) readers_[k].open(pictures[k]);
    for (int y = 0; y < job_.out_height; ++y) {
      const bool box_row = plan.box_mix && y >= plan.box.y1 && y < plan.box.y2 && plan.box.x1 < plan.box.x2;
      fill(plan, pictures, 0, y, resized);
      if (plan.pictures == 2 && (!plan.box_mix || box_row)) {
        fill(plan, pictures, 1, y, resized);
        combine(plan);
      }
      store(y, out);
    }
  }

 private:
  // values_[k] = row y of picture k, normalised, its holes 0
  void fill(const Plan& plan, const Picture (&pictures)[2], int k, int y, bool resized) {
    const int channels = job_.channels;
    if (!resized) {
      readers_[k].read(y, bytes_.data());
    } else {
      uint8_t value[kMaxChannels];
      for (int x = 0; x < job_.out_width; ++x) {
        read_resized(job_, pictures[k].pixels, y, x, value);
        std::copy_n(value, channels, bytes_.data() + x * channels);
      }
    }
    float* to = values_[k].data();
    const int count = job_.out_width * channels;
    const uint8_t* from = bytes_.data();
    const float *scale = scale_.data(), *bias = bias_.data();
    for (int i = 0; i < count; ++i) to[i] = static_cast<float>(from[i]) * scale[i] + bias[i];
    for (int h = 0; h < (plan.plain ? 0 : plan.hole_count[k]); ++h) {
      const Box& hole = plan.holes[k][h];
      if (y >= hole.y1 && y < hole.y2) std::fill(to + hole.x1 * channels, to + hole.x2 * channels, 0.0f);
    }
  }

  // values_[0] = both pictures' rows, mixed
  void combine(const Plan& plan) {
    float* a = values_[0].data();
    const float* b = values_[1].data();
    const int channels = job_.channels, count = job_.out_width * channels;
    if (plan.box_mix) {
      std::copy(b + plan.box.x1 * channels, b + plan.box.x2 * channels, a + plan.box.x1 * channels);
    } else {
      const float lam = plan.lam;
      for (int i = 0; i < count; ++i) a[i] = mixed(a[i], b[i], lam);
    }
  }

  template <class T>
  void store(int y, T* out) const {
    const int width = job_.out_width, channels = job_.channels, stored = job_.out_channels;
    const float* values = values_[0].data();
    if (job_.channels_last && stored == channels) {
      T* to = out + static_cast<size_t>(y) * width * channels;
      for (int i = 0; i < width * channels; ++i) to[i] = cast<T>(values[i]);
      return;
    }
    const size_t pixel = job_.channels_last ? stored : 1;
    const size_t plane = job_.channels_last ? 1 : static_cast<size_t>(job_.out_height) * width;
    T* to = out + static_cast<size_t>(y) * width * pixel;
    for (int c = 0; c < stored; ++c)
      for (int x = 0; x < width; ++x)
        to[x * pixel + c * plane] = cast<T>(c < channels ? values[x * channels + c] : 0.0f);
  }

  const Job& job_;
  Image image_;
  RowReader readers_[2];
  std::vector<uint8_t> bytes_;
  std::vector<float> values_[2], scale_, bias_;
};

}  // namespace cifarfast
