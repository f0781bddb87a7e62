// What a batch job is: the tables cifarfast/augment/program.py compiles a list of transforms to, and a call's pointers.
#pragma once

#include <cstdint>

#include "philox.h"

namespace cifarfast {

constexpr int kFields = 16;
constexpr int kBlocksPerRow = 16;
constexpr int kMaxSteps = 32;
constexpr int kMaxHoles = 16;
constexpr int kMaxChannels = 4;
constexpr int kCutoutBlock = 1024;
constexpr int kMixBlock = 1040;
constexpr int kBetaIntervals = 4096;
constexpr uint32_t kPurposeAugment = 1;

enum Kind : int {
  kIdentity = 0,
  kBrightness,
  kContrast,
  kColor,
  kSharpness,
  kPosterize,
  kSolarize,
  kAutoContrast,
  kEqualize,
  kInvert,
  kShearX,
  kShearY,
  kTranslateX,
  kTranslateY,
  kRotate,
  kCrop,
  kFlip,
  kAlternatingFlip,
  kAffine,
  kPolicy,
  kNearestMap,
  kBilinearMap,
};

enum PadMode : int { kPadZero = 0, kPadReflect = 1, kPadEdge = 2 };
enum Sign : int { kSignNone = 0, kSignDrawn = 1, kSignFactor = 2 };  // kSignFactor: the parameter is 1 ± magnitude
enum DType : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };
enum Setting : int { kCutoutP = 0, kCutMixP, kMixupP, kCutMixStart, kMixupStart, kSettings };

// One operation on one image with its drawn parameters.
struct Step {
  int kind;
  float value;         // magnitude of a pixel operation
  float map[6];        // source x = map[0]·x + map[1]·y + map[2] about the centre; source y likewise
  int dy, dx, padded;  // crop
};

struct Box {
  int y1, y2, x1, x2;  // rows y1…y2−1, columns x1…x2−1
};

// Everything one launch needs. Pointers are to memory of the device that runs it.
struct Job {
  const uint8_t* images;   // [count, height, width, channels]
  const int64_t* labels;   // [count]
  const int64_t* indices;  // [batch]
  const int64_t* batch_key;  // [1], the index whose draws decide on mixing for a whole batch
  const int64_t* epoch;    // [1]
  const int64_t* pool;     // [pool_size] candidates for mixing partners; null: all images
  int64_t count, batch, pool_size;
  uint64_t seed;
  int height, width, channels;

  const float* rows;       // [row_count, kFields]
  const float* policy;     // [entries, 4]: kind, probability, magnitude, sign
  const float* settings;   // [kSettings]
  const float* quantiles;  // [2, kBetaIntervals + 1] of CutMix's and Mixup's Beta distributions
  const float* scale_bias; // [2, channels]
  int row_count, step_count;
  int cutout_length, cutout_count;
  int mixes, mix_per_batch, augmented_copy;
  int staged;              // whether any operation needs an image of its own, that is more than moved pixels

  void* out;               // [batch, out_height, out_width, out_channels] or the channels-first order
  int64_t* labels_a;       // [batch]
  int64_t* labels_b;       // [batch], only with mixes
  float* lam;              // [batch], only with mixes
  int32_t* bad_index;      // [1], set to 1 when an index is out of range (that sample becomes image 0)
  uint8_t* scratch;        // CUDA: room for images that do not fit into shared memory, or null
  int out_height, out_width, out_channels;
  int channels_last, dtype, nearest_resize;
};

}  // namespace cifarfast
