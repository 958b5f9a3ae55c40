// Convolutions of images in float32, with what follows them.

#ifndef DMPHN_JAX_CONVOLVE_H_
#define DMPHN_JAX_CONVOLVE_H_

#include <vector>

#include "parallel.h"
#include "vectors.h"

namespace dmphn {

// A convolution of an image x (B, H, W, C) with a kernel w (size, size, C, D) and a border of 1:
//   y[i, j] = sum over r, s of x[i * stride + r - 1, j * stride + s - 1] w[r, s]
// or, if transposed, with a stride of 2:
//   y[2i + r - 1, 2j + s - 1] = sum over i, j, r, s that meet there of x[i, j] w[r, s]
struct Convolution {
  Shape image;     // x
  int64_t size;    // 3 or 4
  int64_t stride;  // 1 or 2
  bool transposed;
  int64_t features;  // D

  Shape output() const {
    const int64_t height = transposed ? image.height * stride : image.height / stride;
    const int64_t width = transposed ? image.width * stride : image.width / stride;
    return {image.batch, height, width, features};
  }
};

// How the caller stores w: as (size, size, C, D), or with C and D swapped, or r and s reversed.
struct Storage {
  bool swapped, flipped;
};

// What comes before and after the sums; null pointers for nothing.
struct Ends {
  const float* bias;      // (D)
  const float* residual;  // like the output: added
  bool relu;
};

// One product of the sums: channels of an image's pixel, and the kernel's matrix [depth][block].
struct Tap {
  const float* image;
  const float* kernel;
  int64_t depth;
};

// Where sums go, and whether products come before and after these.
struct Target {
  float* sums;      // [pixel][block], between the first products and the last
  float* out;       // of the first pixel, after the last
  int64_t step;     // in `out`, from one pixel to the next
  int64_t offset;   // of `out` in the output
  int64_t feature;  // first of the block
  bool first, last;
};

// Adds products to the sums of kTile pixels, kStep floats apart in the image, by kVectors of
// features.
template <int kVectors, int kTile, int kStep>
struct Accumulate {
  static void Run(const Tap* taps, int64_t count, const Target& target, const Ends& ends) {
    constexpr int kBlock = kVectors * kLanes;
    Vec sums[kTile][kVectors];
#pragma GCC unroll 12
    for (int p = 0; p < kTile; ++p) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        if (!target.first) {
          sums[p][v] = At(target.sums + p * kBlock + v * kLanes);
        } else {
          sums[p][v] = ends.bias ? At(ends.bias + target.feature + v * kLanes) : Vec{};
          const int64_t at = p * target.step + v * kLanes;
          if (ends.residual) sums[p][v] += At(ends.residual + target.offset + at);
        }
      }
    }
    for (int64_t t = 0; t < count; ++t) {
      const float* image = taps[t].image;
      const float* kernel = taps[t].kernel;
#pragma GCC unroll 4
      for (int64_t c = 0; c < taps[t].depth; ++c, ++image, kernel += kBlock) {
        Vec k[kVectors];
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) k[v] = At(kernel + v * kLanes);
#pragma GCC unroll 12
        for (int p = 0; p < kTile; ++p) {
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) sums[p][v] += k[v] * image[p * kStep];
        }
      }
    }
#pragma GCC unroll 12
    for (int p = 0; p < kTile; ++p) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        Vec sum = sums[p][v];
        if (!target.last) {
          At(target.sums + p * kBlock + v * kLanes) = sum;
          continue;
        }
        const int64_t at = p * target.step + v * kLanes;
        if (ends.relu) sum = sum < 0 ? Vec{} : sum;  // lets NaN through
        At(target.out + at) = sum;
      }
    }
  }
};

// By [vectors - 1] and [pixels - 1].
template <int kStride>
constexpr auto& kAccumulators = Compiled<Accumulate, kStride * kDepth, kPixelTile>::kTable;

// Pixels of a row that one part of the kernel serves in turn.
constexpr int64_t kSegment = 10 * kPixelTile;

// Copies tap (r, s) of the kernel, from one channel and feature on: [depth][block].
inline void PackTap(const Convolution& conv, const float* kernel, const Storage& storage, int64_t r,
                    int64_t s, int64_t channel, int64_t feature, float* to) {
  const int64_t channels = conv.image.channels, features = conv.features;
  const int64_t block = BlockOf(features), depth = PartOf(channels, kDepth, channel / kDepth);
  const int64_t i = storage.flipped ? conv.size - 1 - r : r;
  const int64_t j = storage.flipped ? conv.size - 1 - s : s;
  const float* const from = kernel + (i * conv.size + j) * channels * features;
  if (!storage.swapped) {
    for (int64_t c = 0; c < depth; ++c) {
      std::memcpy(to + c * block, from + (channel + c) * features + feature, block * sizeof(float));
    }
    return;
  }
  for (int64_t d = 0; d < block; ++d) {
    const float* const row = from + (feature + d) * channels + channel;
    for (int64_t c = 0; c < depth; ++c) to[c * block + d] = row[c];
  }
}

// The kernel by blocks: [feature block][r][channel block][s][kDepth][block]. One per thread at a
// time.
class PackedKernel {
 public:
  PackedKernel(const Convolution& conv, const float* kernel, const Storage& storage)
      : size_(conv.size),
        block_(BlockOf(conv.features)),
        channel_blocks_(CeilDiv(conv.image.channels, kDepth)),
        data_(Scratch(Use::kCall, conv.features * size_ * channel_blocks_ * size_ * kDepth)) {
    for (int64_t r = 0; r < size_; ++r) {
      for (int64_t s = 0; s < size_; ++s) {
        for (int64_t c = 0; c < channel_blocks_; ++c) {
          for (int64_t block = 0; block < conv.features / block_; ++block) {
            PackTap(conv, kernel, storage, r, s, c * kDepth, block * block_,
                    data_ + Offset(block, r, c, s));
          }
        }
      }
    }
  }

  const float* At(int64_t block, int64_t r, int64_t channel_block, int64_t s) const {
    return data_ + Offset(block, r, channel_block, s);
  }

 private:
  int64_t Offset(int64_t block, int64_t r, int64_t channel_block, int64_t s) const {
    return (((block * size_ + r) * channel_blocks_ + channel_block) * size_ + s) * kDepth * block_;
  }

  int64_t size_, block_, channel_blocks_;
  float* data_;
};

// Kernel rows (or columns) that meet one row of the output, and the image's rows they meet.
struct Reach {
  int count = 0;
  int64_t kernel[4], image[4];

  // For row i of the output; with a transposed convolution, row 2i + phase.
  Reach(const Convolution& conv, int64_t i, int64_t phase) {
    for (int64_t r = 0; r < conv.size; ++r) {
      if (conv.transposed && (phase + 1 - r) % 2 != 0) continue;
      kernel[count] = r;
      image[count++] = conv.transposed ? i + (phase + 1 - r) / 2 : i * conv.stride + r - 1;
    }
  }
};

// Computes one row of one phase of the output, for one block of features.
inline void ConvolveRow(const Convolution& conv, const PackedKernel& kernel, const Ends& ends,
                        PaddedRows<kDepth>& rows, int64_t block, int64_t batch, int64_t i,
                        int64_t phase_i, int64_t phase_j, float* output) {
  const Shape shape = conv.output();
  const int64_t size = BlockOf(conv.features), feature = block * size;
  const int64_t phases = conv.transposed ? 2 : 1;
  const int64_t count = shape.width / phases, step = phases * shape.channels;
  const int64_t row = (batch * shape.height + i * phases + phase_i) * shape.width + phase_j;
  const int64_t image_stride = conv.transposed ? 1 : conv.stride;
  const auto& accumulators =
      (image_stride == 1 ? kAccumulators<1> : kAccumulators<2>)[size / kLanes - 1];

  const Reach vertical(conv, i, phase_i), horizontal(conv, 0, phase_j);
  const int64_t channels = conv.image.channels, channel_blocks = CeilDiv(channels, kDepth);
  // Products come in groups whose part of the kernel fits the first cache: of one channel block
  // and one row of the kernel, or of all rows where there are few channels.
  const int64_t together = channels <= kDepth / 4 ? conv.size : 1;
  struct Group {
    Tap taps[16];
    int64_t count = 0;

    // Neighbours in both the row and the packed kernel become one.
    void Add(const Tap& tap, int64_t block) {
      Tap* last = count ? &taps[count - 1] : nullptr;
      if (last && tap.image == last->image + last->depth &&
          tap.kernel == last->kernel + last->depth * block) {
        last->depth += tap.depth;
      } else {
        taps[count++] = tap;
      }
    }
  };
  std::vector<Group> groups;
  groups.reserve(vertical.count * channel_blocks);
  int64_t inside = 0;
  for (int v = 0; v < vertical.count; ++v) {
    if (vertical.image[v] < 0 || vertical.image[v] >= conv.image.height) continue;
    const float* image = rows.Row(batch, vertical.image[v]);
    for (int64_t c = 0; c < channel_blocks; ++c) {
      if (inside % together == 0 || c > 0) groups.emplace_back();
      Group& group = groups.back();
      const int64_t depth = PartOf(channels, kDepth, c);
      for (int h = 0; h < horizontal.count; ++h) {
        group.Add({image + c * rows.block_stride() + (horizontal.image[h] + 1) * kDepth,
                   kernel.At(block, vertical.kernel[v], c, horizontal.kernel[h]), depth},
                  size);
      }
    }
    ++inside;
  }

  alignas(64) float sums[kSegment * 2 * kLanes];
  ForParts(count, kSegment, [&](int64_t begin, int64_t length) {
    for (const Group& group : groups) {
      const bool first = &group == &groups.front(), last = &group == &groups.back();
      ForParts(length, kPixelTile, [&](int64_t part, int64_t tile) {
        const int64_t j = begin + part, offset = row * shape.channels + j * step + feature;
        Tap taps[16];
        for (int64_t t = 0; t < group.count; ++t) {
          taps[t] = group.taps[t];
          taps[t].image += j * image_stride * kDepth;
        }
        const Target target = {sums + part * size, output + offset, step, offset,
                               feature,            first,           last};
        accumulators[tile - 1](taps, group.count, target, ends);
      });
    }
  });
}

// Computes the convolution; `features` is a multiple of kLanes.
inline void Convolve(xla::ffi::ThreadPool& pool, const Convolution& conv, const float* image,
                     const float* stored_kernel, const Storage& storage, const Ends& ends,
                     float* output) {
  const PackedKernel kernel(conv, stored_kernel, storage);
  const int64_t blocks = conv.features / BlockOf(conv.features), phases = conv.transposed ? 2 : 1;
  const int64_t height = conv.output().height / phases, rows = conv.image.batch * height;
  // A task is a few neighbouring rows; all threads have equally many.
  const int64_t chunk = CeilDiv(rows, 8 * std::max<int64_t>(pool.num_threads(), 1));
  ParallelFor(pool, CeilDiv(rows, chunk), [&](int64_t task) {
    PaddedRows<kDepth> padded(image, conv.image, conv.image.channels, 4);
    for (int64_t row = task * chunk; row < std::min((task + 1) * chunk, rows); ++row) {
      for (int64_t block = 0; block < blocks; ++block) {
        for (int64_t phase = 0; phase < phases * phases; ++phase) {
          ConvolveRow(conv, kernel, ends, padded, block, row / height, row % height, phase / phases,
                      phase % phases, output);
        }
      }
    }
  });
}

}  // namespace dmphn

#endif  // DMPHN_JAX_CONVOLVE_H_
