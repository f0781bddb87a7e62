// The CPU twin of the CUDA kernel: images are shared out to threads in small groups.
#include "augment_cpu.h"

#include <atomic>
#include <memory>
#include <thread>

#include "rows.h"

namespace cifarfast {
namespace {

constexpr int64_t kGroup = 16;          // images a thread takes at a time
constexpr int64_t kPerThread = 32;      // starting a thread for fewer costs more than it saves

template <class T>
void work(const Job& job, std::atomic<int64_t>& next) {
  const Image image{job.height, job.width, job.channels};
  std::vector<uint8_t> buffers(static_cast<size_t>(3) * image.bytes());
  std::vector<int> histogram(static_cast<size_t>(256) * job.channels);
  std::vector<uint8_t> table(static_cast<size_t>(256) * job.channels);
  Workspace space{{buffers.data(), buffers.data() + image.bytes(), buffers.data() + 2 * image.bytes()},
                  histogram.data(),
                  table.data(),
                  nullptr};
  const OneThread team;
  RowReader reader(image);
  RowWriter writer(job);
  const auto plan = std::make_unique<Plan>();
  const size_t out_size = static_cast<size_t>(job.out_height) * job.out_width * job.out_channels;
  for (int64_t start = next.fetch_add(kGroup); start < job.batch; start = next.fetch_add(kGroup)) {
    for (int64_t position = start; position < std::min(start + kGroup, job.batch); ++position) {
      make_plan(team, job, position, *plan);
      Picture pictures[2];
      make_pictures(team, job, *plan, space, pictures, GatherRows{&reader});
      writer.write(*plan, pictures, static_cast<T*>(job.out) + out_size * position);
      write_labels(team, job, *plan, position);
    }
  }
}

template <class T>
void share(const Job& job, int threads) {
  std::atomic<int64_t> next{0};
  const int64_t useful = std::max<int64_t>(1, std::min<int64_t>(threads, job.batch / kPerThread));
  std::vector<std::thread> helpers;
  for (int64_t i = 1; i < useful; ++i) helpers.emplace_back([&job, &next] { work<T>(job, next); });
  work<T>(job, next);
  for (auto& helper : helpers) helper.join();
}

}  // namespace

void augment_cpu(const Job& job, int threads) {
  if (job.dtype == kBFloat16) return share<BFloat16>(job, threads);
  if (job.dtype == kFloat16) return share<Float16>(job, threads);
  share<float>(job, threads);
}

}  // namespace cifarfast
