// Runs random programs on buffers of exactly the right size, through the CPU twin and through the path the GPU takes
// (a crew of threads with a barrier), and compares the results. Built with a sanitizer by test_sanitizers.py.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <thread>

#include "augment_cpu.h"
#include "crew.h"
#include "rows.h"

using namespace cifarfast;

namespace {

// heap memory without slack, so that the sanitizer sees any access beyond it
template <class T>
std::unique_ptr<T[]> block(size_t count) {
  return std::unique_ptr<T[]>(new T[count]());
}

struct Case {
  std::mt19937 random;
  Job job{};
  std::unique_ptr<uint8_t[]> images;
  std::unique_ptr<int64_t[]> labels, indices, epoch, pool, labels_a, labels_b;
  std::unique_ptr<float[]> rows, policy, settings, quantiles, scale_bias, lam;
  std::unique_ptr<int32_t[]> bad_index;
  size_t out_bytes = 0;

  int pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); }
  float real(float low, float high) { return std::uniform_real_distribution<float>(low, high)(random); }

  void add_row(int kind, std::initializer_list<float> numbers, int steps) {
    float* row = rows.get() + job.row_count++ * kFields;
    row[0] = static_cast<float>(kind);
    std::copy(numbers.begin(), numbers.end(), row + 1);
    row[kFields - 1] = static_cast<float>(job.step_count);
    job.step_count += steps;
  }

  void random_row() {
    const int side = std::min(job.height, job.width);
    const float bilinear = static_cast<float>(pick(0, 1));
    switch (pick(0, 5)) {
      case 0: {
        const int mode = pick(0, 2);
        const float padding = static_cast<float>(pick(0, mode == kPadReflect ? side - 1 : side));
        return add_row(kCrop, {1, 0, 0, padding, static_cast<float>(mode), 0, 0}, 1);
      }
      case 1:
        return add_row(pick(0, 1) ? kFlip : kAlternatingFlip, {0.5f}, 1);
      case 2:
        return add_row(kAffine, {0.9f, -360, 360, 1, 1, 0.05f, 20, -80, 80, -80, 80, bilinear, 0}, 1);
      case 3: {
        const int kind = pick(kBrightness, kInvert);
        return add_row(kind, {0.9f, 0, kind == kPosterize ? 8.0f : 2.0f}, 1);
      }
      default:
        for (int entry = 0; entry < 20; ++entry) {
          const int kind = pick(kBrightness, kRotate);
          const bool shifts = kind == kTranslateX || kind == kTranslateY;
          const float strongest = kind == kPosterize ? 8.0f : (shifts ? 40.0f : 1.0f);
          const float values[4] = {static_cast<float>(kind), 0.8f, real(0, strongest), kind < kPosterize ? 2.0f : 0.0f};
          std::copy(values, values + 4, policy.get() + 4 * entry);
        }
        return add_row(kPolicy, {1, 0, 0, 2, 10, 2, bilinear, 0}, 4);
    }
  }

  explicit Case(unsigned seed) : random(seed) {
    job.seed = seed;
    job.height = pick(3, 40);
    job.width = pick(3, 40);
    job.channels = pick(0, 1) ? 3 : 1;
    job.count = pick(2, 9);
    job.batch = pick(0, 70);
    job.augmented_copy = pick(0, 3) == 0;
    job.mixes = pick(0, 1);
    job.mix_per_batch = pick(0, 1);
    job.cutout_count = pick(0, 3);
    job.cutout_length = pick(1, 2 * std::max(job.height, job.width));
    job.dtype = pick(0, 2);
    job.channels_last = pick(0, 1);
    job.out_channels = job.channels + (pick(0, 1) ? pick(0, 5) : 0);
    const int resize = pick(0, 3);
    job.out_height = resize ? job.height : job.height + pick(0, 30);
    job.out_width = resize ? job.width : job.width + pick(0, 30);
    job.nearest_resize = pick(0, 1);
    rows = block<float>(static_cast<size_t>(kFields) * 6);
    policy = block<float>(80);
    for (int i = pick(0, 5); i > 0; --i) random_row();
    for (int i = 0; i < job.row_count; ++i) {
      const float* row = rows.get() + kFields * i;
      const int kind = static_cast<int>(row[0]);
      job.staged |= kind != kCrop && kind != kFlip && kind != kAlternatingFlip && (kind != kAffine || row[12] != 0.0f);
    }
    fill();
  }

  void fill() {
    const size_t pixels = static_cast<size_t>(job.count) * job.height * job.width * job.channels;
    const size_t batch = static_cast<size_t>(job.batch);
    images = block<uint8_t>(pixels);
    const int colours = pick(1, 255);
    for (size_t i = 0; i < pixels; ++i) images[i] = static_cast<uint8_t>(pick(0, colours));
    labels = block<int64_t>(job.count);
    for (int64_t i = 0; i < job.count; ++i) labels[i] = i;
    indices = block<int64_t>(batch);
    const int limit = static_cast<int>(job.augmented_copy ? 2 * job.count : job.count);
    const bool wrong = pick(0, 9) == 0;  // out of range now and then
    for (size_t i = 0; i < batch; ++i) indices[i] = wrong ? pick(-5, limit + 5) : pick(0, limit - 1);
    pool = block<int64_t>(2);
    pool[1] = job.count - 1;
    job.pool_size = pick(0, 1) ? 2 : 0;
    epoch = block<int64_t>(1);
    epoch[0] = pick(0, 3);
    settings = block<float>(kSettings);
    settings[kCutoutP] = 0.8f;
    settings[kCutMixP] = real(0, 0.6f);
    settings[kMixupP] = real(0, 0.4f);
    settings[kMixupStart] = 1.0f;
    quantiles = block<float>(2 * (kBetaIntervals + 1));
    for (int i = 0; i < 2 * (kBetaIntervals + 1); ++i)
      quantiles[i] = static_cast<float>(i % (kBetaIntervals + 1)) / kBetaIntervals;
    scale_bias = block<float>(2 * job.channels);
    for (int c = 0; c < 2 * job.channels; ++c) scale_bias[c] = real(-1, 1);
    labels_a = block<int64_t>(batch);
    labels_b = block<int64_t>(batch);
    lam = block<float>(batch);
    bad_index = block<int32_t>(1);
    out_bytes = batch * job.out_height * job.out_width * job.out_channels * (job.dtype == kFloat32 ? 4 : 2);
    job.images = images.get();
    job.labels = labels.get();
    job.indices = job.batch_key = indices.get();
    job.epoch = epoch.get();
    job.pool = job.pool_size ? pool.get() : nullptr;
    job.rows = rows.get();
    job.policy = policy.get();
    job.settings = settings.get();
    job.quantiles = quantiles.get();
    job.scale_bias = scale_bias.get();
    job.labels_a = labels_a.get();
    job.labels_b = labels_b.get();
    job.lam = lam.get();
    job.bad_index = bad_index.get();
  }
};

template <class T>
void run_crew(const Job& job, int size) {
  Barrier barrier(size);
  const Image image{job.height, job.width, job.channels};
  auto buffers = block<uint8_t>(static_cast<size_t>(3) * image.bytes());
  auto histogram = block<int>(256 * job.channels);
  auto table = block<uint8_t>(256 * job.channels);
  auto axes = block<int16_t>(2 * (job.height + job.width));
  const auto plan = std::make_unique<Plan>();
  const Workspace space{{buffers.get(), buffers.get() + image.bytes(), buffers.get() + 2 * image.bytes()},
                        histogram.get(),
                        table.get(),
                        axes.get()};
  const size_t out_size = static_cast<size_t>(job.out_height) * job.out_width * job.out_channels;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      const Crew team(rank, size, &barrier);
      for (int64_t position = 0; position < job.batch; ++position) {
        T* out = static_cast<T*>(job.out) + out_size * position;
        if (is_staged(job))
          render<T, true>(team, job, position, space, *plan, out);
        else
          render<T, false>(team, job, position, space, *plan, out);
        team.sync();  // the next image takes the same workspace; on a GPU it has its own
      }
    });
  for (auto& thread : threads) thread.join();
}

}  // namespace

int main(int count, char** arguments) {
  const unsigned cases = count > 1 ? static_cast<unsigned>(std::atoi(arguments[1])) : 100;
  const int crew = count > 2 ? std::atoi(arguments[2]) : 3;
  for (unsigned seed = 0; seed < cases; ++seed) {
    Case here(seed);
    Job& job = here.job;
    auto first = block<uint8_t>(here.out_bytes), second = block<uint8_t>(here.out_bytes);
    job.out = first.get();
    augment_cpu(job, 1 + static_cast<int>(seed % 2));
    job.out = second.get();
    if (job.dtype == kFloat32)
      run_crew<float>(job, crew);
    else if (job.dtype == kBFloat16)
      run_crew<BFloat16>(job, crew);
    else
      run_crew<Float16>(job, crew);
    if (std::memcmp(first.get(), second.get(), here.out_bytes) != 0) {
      std::printf("case %u: the two paths differ\n", seed);
      return 1;
    }
  }
  std::printf("%u cases\n", cases);
  return 0;
}
