// Filter gradients of convolutions in float32.

#ifndef DMPHN_JAX_FILTER_GRADIENT_H_
#define DMPHN_JAX_FILTER_GRADIENT_H_

#include "parallel.h"
#include "vectors.h"

namespace dmphn {

// Correlates x (B, stride * H, stride * W, C), with a border of 1, and g (B, H, W, D), to the sums
// over b, i, j of x[b, i * stride + r - 1, j * stride + s - 1, c] g[b, i, j, d]:
// (size, size, C, D).
struct Correlation {
  Shape large;  // x
  Shape small;  // g
  int64_t size, stride;
};

// Pixels of a row of x, and those of g that meet them: [pixel][kVectors * kLanes].
struct RowPair {
  const float* image;
  const float* gradient;
};

// Adds the products of `width` pixels of the rows, `offset` further on in x, to sums
// [kTile][kVectors * kLanes]: kTile channels of x, whose pixels are kStep floats apart, by kVectors
// of features.
template <int kVectors, int kTile, int kStep>
struct AccumulateOuter {
  static void Run(const RowPair* rows, int64_t count, int64_t offset, int64_t width,
                       float* out) {
    Vec sums[kTile][kVectors];
#pragma GCC unroll 12
    for (int c = 0; c < kTile; ++c) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[c][v] = At(out + (c * kVectors + v) * kLanes);
    }
    for (int64_t i = 0; i < count; ++i) {
      const float* image = rows[i].image + offset;
      const float* gradient = rows[i].gradient;
#pragma GCC unroll 4
      for (int64_t j = 0; j < width; ++j, image += kStep, gradient += kVectors * kLanes) {
        Vec g[kVectors];
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) g[v] = At(gradient + v * kLanes);
#pragma GCC unroll 12
        for (int c = 0; c < kTile; ++c) {
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) sums[c][v] += g[v] * image[c];
        }
      }
    }
#pragma GCC unroll 12
    for (int c = 0; c < kTile; ++c) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) At(out + (c * kVectors + v) * kLanes) = sums[c][v];
    }
  }
};

constexpr auto& kOuterAccumulators =
    Compiled<AccumulateOuter, kChannelTile, kChannelTile>::kTable;

// Computes the correlation into `output`, (size, size, C, D) or, if swapped, (size, size, D, C),
// reversed in r and s if flipped; and the sum of g over b, i, j into `sum`, (D).
// D is a multiple of kLanes. The order of summation depends on the shapes only.
inline void FilterGradient(xla::ffi::ThreadPool& pool, const Correlation& work, const float* large,
                           const float* small, bool swapped, bool flipped, float* output,
                           float* sum) {
  const int64_t channels = work.large.channels, features = work.small.channels, size = work.size;
  const int64_t block_size = BlockOf(features);
  const int64_t channel_blocks = CeilDiv(channels, kDepth), blocks = features / block_size;
  const int64_t height = work.small.height, width = work.small.width, rows = work.small.rows();
  const auto& accumulators = kOuterAccumulators[block_size / kLanes - 1][work.stride - 1];

  // Pixels that are summed before the sums go back to memory: of a part of a row, or of a few rows.
  constexpr int64_t kPixels = 96;
  const int64_t together = std::max<int64_t>(kPixels / width, 1);
  // Every task sums a chunk of rows for one block of channels and of features, on its own; the
  // chunks are added up afterwards.
  const int64_t taps = size * size, tap_size = kDepth * block_size;
  const int64_t part_size = taps * tap_size + block_size;
  const int64_t parts = channel_blocks * blocks;
  const int64_t chunks = std::min(rows, std::max(CeilDiv(16, parts), rows * width / 8192));
  float* const sums = Scratch(Use::kCall, chunks * parts * part_size);
  ParallelFor(pool, chunks * parts, [&](int64_t task) {
    const int64_t part = task % parts, chunk = task / parts;
    const int64_t channel_block = part / blocks, block = part % blocks;
    const int64_t depth = PartOf(channels, kDepth, channel_block);
    float* const own = sums + task * part_size;
    std::fill_n(own, part_size, 0.0f);
    PaddedRows<kChannelTile> padded(large + channel_block * kDepth, work.large, depth,
                                    together * work.stride + size - 1);
    RowPair pairs[4][kPixels];  // by the kernel's row
    int64_t counts[4];
    alignas(64) float gradient[kPixels * 2 * kLanes];  // of this block's features
    const int64_t end = rows * (chunk + 1) / chunks;
    for (int64_t begin = rows * chunk / chunks; begin < end; begin += together) {
      const int64_t stop = std::min(begin + together, end);
      for (int64_t r = 0; r < size; ++r) {
        counts[r] = 0;
        for (int64_t row = begin; row < stop; ++row) {
          const int64_t i = row % height * work.stride + r - 1;
          if (i < 0 || i >= work.large.height) continue;
          pairs[r][counts[r]++] = {padded.Row(row / height, i),
                                   gradient + (row - begin) * width * block_size};
        }
      }
      // A part of one row, or several rows whole.
      ForParts(width, kPixels, [&](int64_t j, int64_t length) {
        Vec totals[2] = {};
        float* to = gradient;
        for (int64_t row = begin; row < stop; ++row) {
          const float* from = small + (row * width + j) * features + block * block_size;
          for (int64_t k = 0; k < length; ++k, from += features, to += block_size) {
            for (int64_t v = 0; v < block_size / kLanes; ++v) {
              const Vec value = At(from + v * kLanes);
              totals[v] += value;
              At(to + v * kLanes) = value;
            }
          }
        }
        for (int64_t v = 0; v < block_size / kLanes; ++v) {
          At(own + taps * tap_size + v * kLanes) += totals[v];
        }
        for (int64_t tile = 0; tile < CeilDiv(depth, kChannelTile); ++tile) {
          const int64_t c = tile * kChannelTile;
          const auto accumulate = accumulators[PartOf(depth, kChannelTile, tile) - 1];
          for (int64_t r = 0; r < size; ++r) {
            for (int64_t s = 0; s < size; ++s) {
              const int64_t pixel = (j * work.stride + s) * kChannelTile;
              accumulate(pairs[r], counts[r], tile * padded.block_stride() + pixel, length,
                         own + (r * size + s) * tap_size + c * block_size);
            }
          }
        }
      });
    }
  });

  // Adds a row of the chunks' sums up, at `offset` of a part.
  auto add_up = [&](int64_t part, int64_t offset, float* total) {
    for (int64_t d = 0; d < block_size; d += kLanes) {
      Vec result = {};
      for (int64_t k = 0; k < chunks; ++k) {
        result += At(sums + (k * parts + part) * part_size + offset + d);
      }
      At(total + d) = result;
    }
  };
  // Alone: to wake the other threads would take longer.
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t channel_block = part / blocks, feature = part % blocks * block_size;
    const int64_t depth = PartOf(channels, kDepth, channel_block);
    for (int64_t tap = 0; tap < taps; ++tap) {
      float* const to = output + (flipped ? taps - 1 - tap : tap) * channels * features;
      for (int64_t c = 0; c < depth; ++c) {
        const int64_t channel = channel_block * kDepth + c;
        const int64_t offset = tap * tap_size + c * block_size;
        if (!swapped) {
          add_up(part, offset, to + channel * features + feature);
          continue;
        }
        alignas(64) float total[2 * kLanes];
        add_up(part, offset, total);
        for (int64_t d = 0; d < block_size; ++d) to[(feature + d) * channels + channel] = total[d];
      }
    }
    if (channel_block == 0) add_up(part, taps * tap_size, sum + feature);
  }
}

}  // namespace dmphn

#endif  // DMPHN_JAX_FILTER_GRADIENT_H_
