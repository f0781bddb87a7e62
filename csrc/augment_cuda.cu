// One launch a batch, one block an image: operations in shared memory, the finished image staged there and written out
// in 16-byte pieces.
#include <cuda_runtime.h>

#include "augment.h"
#include "augment_cuda.h"

namespace cifarfast {
namespace {

constexpr int kThreads = 128;
constexpr int kBlocksPerSM = 8;          // at least: caps the registers at 64
constexpr int kSharedLimit = 48 * 1024;  // what a kernel may use without opting in

struct Block {
  __device__ int rank() const { return static_cast<int>(threadIdx.x); }
  __device__ int size() const { return kThreads; }
  __device__ void sync() const { __syncthreads(); }
  __device__ void add(int* target, int value) const { atomicAdd(target, value); }
};

// Where the parts of the shared memory begin, in bytes.
struct Layout {
  int axes, histogram, table, buffers, tile, total;
  bool buffers_shared, tile_shared;
};

CF_HD int aligned(int bytes) { return (bytes + 15) / 16 * 16; }

Layout make_layout(const Job& job, int element) {
  Layout at{};
  int end = aligned(static_cast<int>(sizeof(Plan)));
  at.axes = end;
  end += aligned(2 * (job.height + job.width) * static_cast<int>(sizeof(int16_t)));
  const bool needs_buffers = is_staged(job);
  at.histogram = end;
  if (needs_buffers) end += aligned(256 * job.channels * static_cast<int>(sizeof(int)));
  at.table = end;
  if (needs_buffers) end += aligned(256 * job.channels);
  const int64_t image = aligned(job.height * job.width * job.channels);
  at.buffers_shared = !needs_buffers || end + 3 * image <= kSharedLimit;
  at.buffers = end;
  if (needs_buffers && at.buffers_shared) end += static_cast<int>(3 * image);
  const int64_t tile = static_cast<int64_t>(job.out_height) * job.out_width * job.out_channels * element;
  at.tile_shared = tile % 16 == 0 && end + tile <= kSharedLimit;
  at.tile = end;
  if (at.tile_shared) end += static_cast<int>(tile);
  at.total = end;
  return at;
}

int element_size(const Job& job) { return job.dtype == kFloat32 ? 4 : 2; }

template <class T, bool kStaged>
__global__ void __launch_bounds__(kThreads, kBlocksPerSM) augment_kernel(const Job job, const Layout at) {
  extern __shared__ __align__(16) unsigned char shared[];
  const Block team;
  const int64_t position = blockIdx.x;
  Plan& plan = *reinterpret_cast<Plan*>(shared);
  const int64_t image = aligned(job.height * job.width * job.channels);
  uint8_t* buffers = at.buffers_shared ? shared + at.buffers : job.scratch + 3 * image * position;
  const Workspace space{{buffers, buffers + image, buffers + 2 * image},
                        reinterpret_cast<int*>(shared + at.histogram),
                        shared + at.table,
                        reinterpret_cast<int16_t*>(shared + at.axes)};
  const int64_t elements = static_cast<int64_t>(job.out_height) * job.out_width * job.out_channels;
  T* out = static_cast<T*>(job.out) + elements * position;
  if (!at.tile_shared) {
    render<T, kStaged>(team, job, position, space, plan, out);
    return;
  }
  T* tile = reinterpret_cast<T*>(shared + at.tile);
  render<T, kStaged>(team, job, position, space, plan, tile);
  __syncthreads();
  const int pieces = static_cast<int>(elements * sizeof(T) / 16);
  const uint4* from = reinterpret_cast<const uint4*>(tile);
  uint4* to = reinterpret_cast<uint4*>(out);
  for (int i = team.rank(); i < pieces; i += team.size()) to[i] = from[i];
}

template <class T>
void launch(const Job& job, cudaStream_t stream) {
  const Layout at = make_layout(job, element_size(job));
  const auto kernel = is_staged(job) ? augment_kernel<T, true> : augment_kernel<T, false>;
  kernel<<<static_cast<unsigned>(job.batch), kThreads, at.total, stream>>>(job, at);
}

}  // namespace

int64_t augment_cuda_scratch(const Job& job) {
  const int64_t image = aligned(job.height * job.width * job.channels);
  return make_layout(job, element_size(job)).buffers_shared ? 0 : 3 * image * job.batch;
}

std::string augment_cuda(const Job& job, uintptr_t stream) {
  if (job.batch == 0) return "";
  const auto queue = reinterpret_cast<cudaStream_t>(stream);
  if (job.dtype == kBFloat16)
    launch<BFloat16>(job, queue);
  else if (job.dtype == kFloat16)
    launch<Float16>(job, queue);
  else
    launch<float>(job, queue);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

}  // namespace cifarfast
