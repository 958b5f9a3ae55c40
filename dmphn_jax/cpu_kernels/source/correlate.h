// Correlations of images with gradients in float32: filter gradients by parts.

#ifndef DMPHN_JAX_CORRELATE_H_
#define DMPHN_JAX_CORRELATE_H_

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

// By [vectors - 1] and [channels - 1], for pixels kStep floats apart.
template <int kStep>
constexpr auto& kOuterAccumulators = Compiled<AccumulateOuter, kStep, kChannelTile>::kTable;

// The sums by parts, of one block of channels and of features each:
// [channel block][feature block]{[tap][kDepth][block], and of g, [block]}.
struct Parts {
  int64_t taps, channels, features;

  explicit Parts(const Correlation& work)
      : taps(work.size * work.size),
        channels(work.large.channels),
        features(work.small.channels) {}

  int64_t block() const { return BlockOf(features); }
  int64_t channel_blocks() const { return CeilDiv(channels, kDepth); }
  int64_t blocks() const { return features / block(); }
  int64_t count() const { return channel_blocks() * blocks(); }
  int64_t tap_size() const { return kDepth * block(); }
  int64_t size() const { return taps * tap_size() + block(); }
};

// Sums rows `begin` to `end` of g, of all images, into `own`: one part.
inline void SumDirectly(const Correlation& work, const float* large, const float* small,
                        int64_t part, int64_t begin, int64_t end, float* own) {
  const Parts parts(work);
  const int64_t size = work.size, block = parts.block(), tap_size = parts.tap_size();
  const int64_t height = work.small.height, width = work.small.width;
  const int64_t channel_block = part / parts.blocks(), feature = part % parts.blocks() * block;
  const int64_t depth = PartOf(parts.channels, kDepth, channel_block);
  const auto& accumulators = (work.stride == 1 ? kOuterAccumulators<kChannelTile>
                                               : kOuterAccumulators<2 * kChannelTile>)
      [block / kLanes - 1];

  // Pixels that are summed before the sums go back to memory: of a part of a row, or of a few rows.
  constexpr int64_t kPixels = 96;
  const int64_t together = std::max<int64_t>(kPixels / width, 1);
  std::fill_n(own, parts.size(), 0.0f);
  PaddedRows<kChannelTile> padded(large + channel_block * kDepth, work.large, depth,
                                  together * work.stride + size - 1);
  RowPair pairs[4][kPixels];  // by the kernel's row
  int64_t counts[4];
  alignas(64) float gradient[kPixels * 2 * kLanes];  // of this block's features
  for (; begin < end; begin += together) {
    const int64_t stop = std::min(begin + together, end);
    for (int64_t r = 0; r < size; ++r) {
      counts[r] = 0;
      for (int64_t row = begin; row < stop; ++row) {
        const int64_t i = row % height * work.stride + r - 1;
        if (i < 0 || i >= work.large.height) continue;
        pairs[r][counts[r]++] = {padded.Row(row / height, i),
                                 gradient + (row - begin) * width * block};
      }
    }
    // A part of one row, or several rows whole.
    ForParts(width, kPixels, [&](int64_t j, int64_t length) {
      Vec totals[2] = {};
      float* to = gradient;
      for (int64_t row = begin; row < stop; ++row) {
        const float* from = small + (row * width + j) * parts.features + feature;
        for (int64_t k = 0; k < length; ++k, from += parts.features, to += block) {
          for (int64_t v = 0; v < block / kLanes; ++v) {
            const Vec value = At(from + v * kLanes);
            totals[v] += value;
            At(to + v * kLanes) = value;
          }
        }
      }
      for (int64_t v = 0; v < block / kLanes; ++v) {
        At(own + parts.taps * tap_size + v * kLanes) += totals[v];
      }
      for (int64_t tile = 0; tile < CeilDiv(depth, kChannelTile); ++tile) {
        const int64_t c = tile * kChannelTile;
        const auto accumulate = accumulators[PartOf(depth, kChannelTile, tile) - 1];
        for (int64_t r = 0; r < size; ++r) {
          for (int64_t s = 0; s < size; ++s) {
            const int64_t pixel = (j * work.stride + s) * kChannelTile;
            accumulate(pairs[r], counts[r], tile * padded.block_stride() + pixel, length,
                       own + (r * size + s) * tap_size + c * block);
          }
        }
      }
    });
  }
}

}  // namespace dmphn

#endif  // DMPHN_JAX_CORRELATE_H_
