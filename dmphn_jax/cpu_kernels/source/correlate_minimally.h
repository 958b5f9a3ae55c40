// Correlations of images with gradients in float32 by minimal filtering.

#ifndef DMPHN_JAX_CORRELATE_MINIMALLY_H_
#define DMPHN_JAX_CORRELATE_MINIMALLY_H_

#include "correlate.h"
#include "winograd.h"

namespace dmphn {

// Tiles that are summed before the sums go back to memory, and those between two positions: one
// more, as 2^n bytes apart all positions would meet in one part of a cache.
constexpr int64_t kSummed = 48, kSummedStride = kSummed + 1;

// Channel blocks and feature blocks of one task: each is transformed once for all of the others.
constexpr int64_t kGroup = 2;

inline bool IsMinimal(const Correlation& work) {
  return work.size == 3 && work.stride == 1 && work.large.channels % kLanes == 0;
}

// A g A^T of a run's tiles, for one block of features of a gradient that `gradient` points at:
// [position][kSummedStride][block]. Adds up g as well, to `total`, (block).
inline void TransformGradients(const Shape& shape, const float* gradient, int64_t block,
                               const Run& run, float* to, float* total) {
  const bool two_rows = run.i + 1 < shape.height;
  const int64_t row = shape.width * shape.channels;
  const float* const start =
      gradient + ((run.batch * shape.height + run.i) * shape.width + run.j) * shape.channels;
  for (int64_t d = 0; d < block; d += kLanes) {
    Vec sum = At(total + d);
    const float* from = start + d;
    float* out = to + run.at * block + d;
    for (int64_t tile = 0; tile < run.count; ++tile, from += 2 * shape.channels, out += block) {
      const bool two_columns = run.j + 2 * tile + 1 < shape.width;
      const Vec rows[2][2] = {
          {At(from), two_columns ? At(from + shape.channels) : Vec{}},
          {two_rows ? At(from + row) : Vec{},
           two_rows && two_columns ? At(from + row + shape.channels) : Vec{}}};
      sum += rows[0][0] + rows[0][1] + rows[1][0] + rows[1][1];
      Vec columns[2][4];
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        const Vec column[2] = {rows[0][j], rows[1][j]};
        TransformGradient(column, columns[j]);
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const Vec pair[2] = {columns[0][i], columns[1][i]};
        Vec whole[4];
        TransformGradient(pair, whole);
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) At(out + (4 * i + k) * kSummedStride * block) = whole[k];
      }
    }
    At(total + d) = sum;
  }
}

// G^T u G for a part: u is [position][kDepth][block].
inline void FinishPart(const Parts& parts, const float* u, float* own) {
  for (int64_t at = 0; at < parts.tap_size(); at += kLanes) {
    Vec half[4][3];  // by column of u
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      Vec column[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) column[i] = At(u + (4 * i + j) * parts.tap_size() + at);
      TransformProducts(column, half[j]);
    }
#pragma GCC unroll 3
    for (int r = 0; r < 3; ++r) {
      const Vec row[4] = {half[0][r], half[1][r], half[2][r], half[3][r]};
      Vec whole[3];
      TransformProducts(row, whole);
#pragma GCC unroll 3
      for (int s = 0; s < 3; ++s) At(own + (3 * r + s) * parts.tap_size() + at) = whole[s];
    }
  }
}

// Sums tiles `begin` to `begin + count`, if IsMinimal, for one group of parts; `sums` begins with
// part 0.
inline void SumMinimally(const Correlation& work, const float* large, const float* small,
                         int64_t group, int64_t begin, int64_t count, float* sums) {
  const Parts parts(work);
  const Tiles tiles(work.small);
  const int64_t block = parts.block(), group_columns = CeilDiv(parts.blocks(), kGroup);
  const int64_t channel_block = group / group_columns * kGroup;
  const int64_t feature_block = group % group_columns * kGroup;
  const int64_t first_channel = channel_block * kDepth;
  const int64_t channels = std::min(parts.channels - first_channel, kGroup * kDepth);
  const int64_t channel_blocks = CeilDiv(channels, kDepth);
  const int64_t blocks = std::min(parts.blocks() - feature_block, kGroup);
  const auto& accumulators = kOuterAccumulators<kDepth>[block / kLanes - 1];

  const int64_t image_size = kPositions * kSummedStride * kDepth;
  const int64_t gradient_size = kPositions * kSummedStride * block;
  const int64_t product_size = kPositions * parts.tap_size();
  float* const image = Scratch(Use::kTask, channel_blocks * image_size + blocks * gradient_size +
                                               channel_blocks * blocks * product_size);
  float* const gradient = image + channel_blocks * image_size;
  float* const products = gradient + blocks * gradient_size;
  std::fill_n(products, channel_blocks * blocks * product_size, 0.0f);
  auto own = [&](int64_t c, int64_t b) {
    const int64_t part = (channel_block + c) * parts.blocks() + feature_block + b;
    return sums + part * parts.size();
  };
  for (int64_t c = 0; c < channel_blocks; ++c) {
    for (int64_t b = 0; b < blocks; ++b) {
      std::fill_n(own(c, b) + parts.taps * parts.tap_size(), block, 0.0f);
    }
  }
  ForParts(count, kSummed, [&](int64_t at, int64_t length) {
    tiles.ForRuns(begin + at, length, [&](const Run& run) {
      TransformRun<kSummedStride>(work.large, large + first_channel, channels, run, image);
      for (int64_t b = 0; b < blocks; ++b) {
        TransformGradients(work.small, small + (feature_block + b) * block, block, run,
                           gradient + b * gradient_size,
                           own(0, b) + parts.taps * parts.tap_size());
      }
    });
    for (int64_t c = 0; c < channel_blocks; ++c) {
      const int64_t depth = PartOf(channels, kDepth, c);
      for (int64_t b = 0; b < blocks; ++b) {
        for (int64_t p = 0; p < kPositions; ++p) {
          const RowPair pair = {image + c * image_size + p * kSummedStride * kDepth,
                                gradient + b * gradient_size + p * kSummedStride * block};
          float* const to =
              products + (c * blocks + b) * product_size + p * parts.tap_size();
          for (int64_t tile = 0; tile < CeilDiv(depth, kChannelTile); ++tile) {
            const int64_t channel = tile * kChannelTile;
            accumulators[PartOf(depth, kChannelTile, tile) - 1](&pair, 1, channel, length,
                                                               to + channel * block);
          }
        }
      }
    }
  });
  for (int64_t c = 0; c < channel_blocks; ++c) {
    for (int64_t b = 0; b < blocks; ++b) {
      FinishPart(parts, products + (c * blocks + b) * product_size, own(c, b));
    }
  }
}

}  // namespace dmphn

#endif  // DMPHN_JAX_CORRELATE_MINIMALLY_H_
