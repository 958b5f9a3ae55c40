// Convolutions in float32 by minimal filtering, with what follows them.

#ifndef DMPHN_JAX_CONVOLVE_MINIMALLY_H_
#define DMPHN_JAX_CONVOLVE_MINIMALLY_H_

#include <vector>

#include "convolve.h"
#include "winograd.h"

namespace dmphn {

// Tiles that are computed together: the transformed kernel is read once for them.
constexpr int64_t kTogether = 3 * kPixelTile;

// Tiles between two positions: 2^n bytes apart, all positions would meet in one part of a cache.
constexpr int64_t kTileStride = kTogether + 1;

// G w G^T: [feature block][position][channel block][kDepth][block]. One per thread at a time.
class TransformedKernel {
 public:
  TransformedKernel(xla::ffi::ThreadPool& pool, const Convolution& conv, const float* kernel,
                    const Storage& storage)
      : block_(BlockOf(conv.features)),
        channel_blocks_(CeilDiv(conv.image.channels, kDepth)),
        data_(Scratch(Use::kCall, conv.features * kPositions * channel_blocks_ * kDepth)) {
    ParallelFor(pool, conv.features / block_ * channel_blocks_, [&](int64_t task) {
      const int64_t block = task / channel_blocks_, channel_block = task % channel_blocks_;
      alignas(64) float taps[3][3][kDepth * 2 * kLanes];
      for (int r = 0; r < 3; ++r) {
        for (int s = 0; s < 3; ++s) {
          PackTap(conv, kernel, storage, r, s, channel_block * kDepth, block * block_, taps[r][s]);
        }
      }
      const int64_t depth = PartOf(conv.image.channels, kDepth, channel_block);
      for (int64_t at = 0; at < depth * block_; at += kLanes) {
        Vec half[3][4];  // by row of w
#pragma GCC unroll 3
        for (int r = 0; r < 3; ++r) {
          const Vec row[3] = {dmphn::At(taps[r][0] + at), dmphn::At(taps[r][1] + at),
                              dmphn::At(taps[r][2] + at)};
          TransformKernel(row, half[r]);
        }
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const Vec column[3] = {half[0][j], half[1][j], half[2][j]};
          Vec whole[4];
          TransformKernel(column, whole);
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) {
            dmphn::At(data_ + Offset(block, 4 * i + j, channel_block) + at) = whole[i];
          }
        }
      }
    });
  }

  const float* At(int64_t block, int64_t position, int64_t channel_block) const {
    return data_ + Offset(block, position, channel_block);
  }

 private:
  int64_t Offset(int64_t block, int64_t position, int64_t channel_block) const {
    return ((block * kPositions + position) * channel_blocks_ + channel_block) * kDepth * block_;
  }

  int64_t block_, channel_blocks_;
  float* data_;
};

// A^T m A of a run's tiles, with what follows: m is [position][kTileStride][block].
inline void FinishRun(const Shape& shape, const float* m, const Run& run, int64_t block,
                      int64_t feature, const Ends& ends, float* output) {
  for (int64_t tile = 0; tile < run.count; ++tile) {
    const int64_t j = run.j + 2 * tile;
    const int64_t height = std::min<int64_t>(2, shape.height - run.i);
    const int64_t width = std::min<int64_t>(2, shape.width - j);
    const int64_t start =
        ((run.batch * shape.height + run.i) * shape.width + j) * shape.channels + feature;
    for (int64_t d = 0; d < block; d += kLanes) {
      const float* from = m + (run.at + tile) * block + d;
      Vec half[4][2];  // by column of m
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        Vec column[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) column[i] = At(from + (4 * i + k) * kTileStride * block);
        TransformSums(column, half[k]);
      }
      const Vec bias = ends.bias ? At(ends.bias + feature + d) : Vec{};
#pragma GCC unroll 2
      for (int r = 0; r < 2; ++r) {
        if (r >= height) continue;
        const Vec row[4] = {half[0][r], half[1][r], half[2][r], half[3][r]};
        Vec whole[2];
        TransformSums(row, whole);
#pragma GCC unroll 2
        for (int s = 0; s < 2; ++s) {
          if (s >= width) continue;
          const int64_t at = start + (r * shape.width + s) * shape.channels + d;
          Vec sum = whole[s] + bias;
          if (ends.residual) sum += At(ends.residual + at);
          if (ends.relu) sum = sum < 0 ? Vec{} : sum;  // lets NaN through
          At(output + at) = sum;
        }
      }
    }
  }
}

inline bool IsMinimal(const Convolution& conv) {
  return conv.size == 3 && conv.stride == 1 && !conv.transposed &&
         conv.image.channels % kLanes == 0;
}

// Computes the convolution, if IsMinimal; `features` is a multiple of kLanes.
inline void ConvolveMinimally(xla::ffi::ThreadPool& pool, const Convolution& conv,
                              const float* image, const float* stored_kernel,
                              const Storage& storage, const Ends& ends, float* output) {
  const TransformedKernel kernel(pool, conv, stored_kernel, storage);
  const int64_t block = BlockOf(conv.features), blocks = conv.features / block;
  const int64_t channels = conv.image.channels, channel_blocks = CeilDiv(channels, kDepth);
  const auto& accumulators = kAccumulators<1>[block / kLanes - 1];
  const Tiles tiles(conv.image);
  // A task is a few groups of neighbouring tiles, or one, if all threads get one.
  const int64_t threads = std::max<int64_t>(pool.num_threads(), 1);
  const int64_t chunk = std::max(CeilDiv(tiles.count(), 8 * threads),
                                 std::min(kTogether, CeilDiv(tiles.count(), threads)));
  ParallelFor(pool, CeilDiv(tiles.count(), chunk), [&](int64_t task) {
    const int64_t image_size = channel_blocks * kPositions * kTileStride * kDepth;
    float* const transformed =
        Scratch(Use::kTask, image_size + kPositions * kTileStride * block);
    float* const sums = transformed + image_size;
    std::vector<Tap> taps(channel_blocks);
    ForParts(PartOf(tiles.count(), chunk, task), kTogether, [&](int64_t part, int64_t count) {
      const int64_t begin = task * chunk + part;
      tiles.ForRuns(begin, count, [&](const Run& run) {
        TransformRun<kTileStride>(conv.image, image, channels, run, transformed);
      });
      for (int64_t b = 0; b < blocks; ++b) {
        for (int64_t p = 0; p < kPositions; ++p) {
          ForParts(count, kPixelTile, [&](int64_t at, int64_t tile) {
            for (int64_t c = 0; c < channel_blocks; ++c) {
              taps[c] = {transformed + ((c * kPositions + p) * kTileStride + at) * kDepth,
                         kernel.At(b, p, c), PartOf(channels, kDepth, c)};
            }
            float* const to = sums + (p * kTileStride + at) * block;
            const Target target = {nullptr, to, block, 0, 0, true, true};
            accumulators[tile - 1](taps.data(), channel_blocks, target, Ends{});
          });
        }
        tiles.ForRuns(begin, count, [&](const Run& run) {
          FinishRun(conv.output(), sums, run, block, b * block, ends, output);
        });
      }
    });
  });
}

}  // namespace dmphn

#endif  // DMPHN_JAX_CONVOLVE_MINIMALLY_H_
