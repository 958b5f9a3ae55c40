// 3x3 convolutions with a stride of 1 by minimal filtering: of Winograd, and Lavin and Gray (2016).

#ifndef DMPHN_JAX_WINOGRAD_H_
#define DMPHN_JAX_WINOGRAD_H_

#include <vector>

#include "convolve.h"

namespace dmphn {

// A tile of 2x2 pixels of the output depends on 4x4 of the image x, d:
//   A^T [(B^T d B) * (G w G^T)] A
// where * goes by elements, and sums over channels: 16 products for each pair of channel and
// feature, in place of the 36 of four pixels. B and A add and subtract, G also halves.
constexpr int kPositions = 16;

// Tiles that are computed together: the transformed kernel is read once for them.
constexpr int64_t kTiles = 3 * kPixelTile;

// Tiles between two positions: of 2^n bytes, all positions would meet in one part of a cache.
constexpr int64_t kTileStride = kTiles + 1;

// B^T of four vectors.
inline void TransformInput(const Vec (&d)[4], Vec (&to)[4]) {
  to[0] = d[0] - d[2];
  to[1] = d[1] + d[2];
  to[2] = d[2] - d[1];
  to[3] = d[1] - d[3];
}

// G of three vectors.
inline void TransformKernel(const Vec (&g)[3], Vec (&to)[4]) {
  const Vec ends = (g[0] + g[2]) * 0.5f, middle = g[1] * 0.5f;
  to[0] = g[0];
  to[1] = ends + middle;
  to[2] = ends - middle;
  to[3] = g[2];
}

// A^T of four vectors.
inline void TransformSums(const Vec (&m)[4], Vec (&to)[2]) {
  to[0] = m[0] + m[1] + m[2];
  to[1] = m[1] - m[2] - m[3];
}

// G w G^T: [feature block][position][channel block][kDepth][block].
class TransformedKernel {
 public:
  TransformedKernel(xla::ffi::ThreadPool& pool, const Convolution& conv, const float* stored_kernel,
                    const Storage& storage)
      : block_(BlockOf(conv.features)),
        channel_blocks_(CeilDiv(conv.image.channels, kDepth)),
        data_(Scratch(Use::kTransform, conv.features * kPositions * channel_blocks_ * kDepth)) {
    const PackedKernel kernel(conv, stored_kernel, storage);
    const int64_t blocks = conv.features / block_;
    ParallelFor(pool, blocks * channel_blocks_, [&](int64_t task) {
      const int64_t block = task / channel_blocks_, channel_block = task % channel_blocks_;
      const int64_t depth = PartOf(conv.image.channels, kDepth, channel_block);
      for (int64_t at = 0; at < depth * block_; at += kLanes) {
        Vec half[3][4];  // by row of w
        for (int r = 0; r < 3; ++r) {
          Vec row[3];
          for (int s = 0; s < 3; ++s) row[s] = dmphn::At(kernel.At(block, r, channel_block, s) + at);
          TransformKernel(row, half[r]);
        }
        for (int j = 0; j < 4; ++j) {
          const Vec column[3] = {half[0][j], half[1][j], half[2][j]};
          Vec whole[4];
          TransformKernel(column, whole);
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

// Neighbouring tiles of one row of tiles.
struct Run {
  int64_t batch, i, j;  // pixel at the first one's upper left
  int64_t count;
  int64_t at;  // number of the first one among the tiles that are computed together
};

// B^T d B of a run's tiles: [channel block][position][kTileStride][kDepth].
inline void TransformRun(const Shape& shape, const float* image, const Run& run, float* to) {
  alignas(64) static const float kZeros[kLanes] = {};
  for (int64_t c = 0; c < shape.channels; c += kLanes) {
    const float* rows[4];
    int64_t step[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const int64_t i = run.i + r - 1;
      const bool inside = i >= 0 && i < shape.height;
      step[r] = inside ? shape.channels : 0;
      rows[r] = inside ? image + ((run.batch * shape.height + i) * shape.width) * shape.channels + c
                       : kZeros;
    }
    Vec columns[4][4];
    auto load = [&](int64_t j, Vec(&column)[4]) {
      Vec d[4] = {};
      if (j >= 0 && j < shape.width) {
#pragma GCC unroll 4
        for (int r = 0; r < 4; ++r) d[r] = At(rows[r] + j * step[r]);
      }
      TransformInput(d, column);
    };
    load(run.j - 1, columns[2]);
    load(run.j, columns[3]);
    float* out = to + (c / kDepth * kPositions * kTileStride + run.at) * kDepth + c % kDepth;
    for (int64_t tile = 0; tile < run.count; ++tile, out += kDepth) {
      const int64_t j = run.j + 2 * tile;
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        columns[0][i] = columns[2][i];
        columns[1][i] = columns[3][i];
      }
      load(j + 1, columns[2]);
      load(j + 2, columns[3]);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const Vec row[4] = {columns[0][i], columns[1][i], columns[2][i], columns[3][i]};
        Vec whole[4];
        TransformInput(row, whole);
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) At(out + (4 * i + k) * kTileStride * kDepth) = whole[k];
      }
    }
  }
}

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
  const Shape shape = conv.output();
  const TransformedKernel kernel(pool, conv, stored_kernel, storage);
  const int64_t block = BlockOf(conv.features), blocks = conv.features / block;
  const int64_t channel_blocks = CeilDiv(conv.image.channels, kDepth);
  const auto& accumulators = kAccumulators[block / kLanes - 1][0];
  const int64_t tile_rows = CeilDiv(shape.height, 2), tile_columns = CeilDiv(shape.width, 2);
  const int64_t tiles = shape.batch * tile_rows * tile_columns;
  const int64_t threads = std::max<int64_t>(pool.num_threads(), 1);
  const int64_t chunk = CeilDiv(tiles, 8 * threads);
  ParallelFor(pool, CeilDiv(tiles, chunk), [&](int64_t task) {
    const int64_t image_size = channel_blocks * kPositions * kTileStride * kDepth;
    float* const transformed =
        Scratch(Use::kTask, image_size + kPositions * kTileStride * block);
    float* const sums = transformed + image_size;
    std::vector<Tap> taps(channel_blocks);
    std::vector<Run> runs;
    const int64_t first = task * chunk, length = PartOf(tiles, chunk, task);
    ForParts(length, kTiles, [&](int64_t begin, int64_t count) {
      runs.clear();
      for (int64_t at = 0; at < count; at += runs.back().count) {
        const int64_t tile = first + begin + at, row = tile / tile_columns;
        const int64_t column = tile % tile_columns;
        runs.push_back({row / tile_rows, 2 * (row % tile_rows), 2 * column,
                        std::min(tile_columns - column, count - at), at});
        TransformRun(conv.image, image, runs.back(), transformed);
      }
      for (int64_t b = 0; b < blocks; ++b) {
        for (int64_t p = 0; p < kPositions; ++p) {
          ForParts(count, kPixelTile, [&](int64_t at, int64_t tile) {
            for (int64_t c = 0; c < channel_blocks; ++c) {
              taps[c] = {transformed + ((c * kPositions + p) * kTileStride + at) * kDepth,
                         kernel.At(b, p, c), PartOf(conv.image.channels, kDepth, c)};
            }
            float* const to = sums + (p * kTileStride + at) * block;
            const Target target = {nullptr, to, block, 0, 0, true, true};
            accumulators[tile - 1](taps.data(), channel_blocks, target, Ends{});
          });
        }
        for (const Run& run : runs) FinishRun(shape, sums, run, block, b * block, ends, output);
      }
    });
  });
}

}  // namespace dmphn

#endif  // DMPHN_JAX_WINOGRAD_H_
