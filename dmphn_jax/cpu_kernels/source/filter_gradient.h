// Filter gradients of convolutions in float32.

#ifndef DMPHN_JAX_FILTER_GRADIENT_H_
#define DMPHN_JAX_FILTER_GRADIENT_H_

#include "correlate.h"
#include "correlate_minimally.h"
#include "parallel.h"

namespace dmphn {

// Computes the correlation into `output`, (size, size, C, D) or, if swapped, (size, size, D, C),
// reversed in r and s if flipped; and the sum of g over b, i, j into `sum`, (D).
// D is a multiple of kLanes. The order of summation depends on the shapes only.
inline void FilterGradient(xla::ffi::ThreadPool& pool, const Correlation& work, const float* large,
                           const float* small, bool swapped, bool flipped, float* output,
                           float* sum) {
  const Parts parts(work);
  const int64_t rows = work.small.rows(), pixels = rows * work.small.width;
  // Every task sums a chunk of rows or tiles for one part or group of parts, on its own; the chunks
  // are added up afterwards.
  const bool minimal = IsMinimal(work);
  const int64_t groups = minimal ? CeilDiv(parts.channel_blocks(), kGroup) *
                                       CeilDiv(parts.blocks(), kGroup)
                                 : parts.count();
  const int64_t units = minimal ? Tiles(work.small).count() : rows;
  const int64_t chunks = std::min(units, std::max(CeilDiv(16, groups), pixels / 8192));
  float* const sums = Scratch(Use::kCall, chunks * parts.count() * parts.size());
  ParallelFor(pool, chunks * groups, [&](int64_t task) {
    const int64_t group = task % groups, chunk = task / groups;
    const int64_t begin = units * chunk / chunks, end = units * (chunk + 1) / chunks;
    float* const own = sums + chunk * parts.count() * parts.size();
    if (minimal) {
      SumMinimally(work, large, small, group, begin, end - begin, own);
    } else {
      SumDirectly(work, large, small, group, begin, end, own + group * parts.size());
    }
  });

  // Adds a row of the chunks' sums up, at `offset` of a part.
  const int64_t block = parts.block(), channels = parts.channels, features = parts.features;
  auto add_up = [&](int64_t part, int64_t offset, float* total) {
    for (int64_t d = 0; d < block; d += kLanes) {
      Vec result = {};
      for (int64_t k = 0; k < chunks; ++k) {
        result += At(sums + (k * parts.count() + part) * parts.size() + offset + d);
      }
      At(total + d) = result;
    }
  };
  // Alone: to wake the other threads would take longer.
  for (int64_t part = 0; part < parts.count(); ++part) {
    const int64_t channel_block = part / parts.blocks(), feature = part % parts.blocks() * block;
    const int64_t depth = PartOf(channels, kDepth, channel_block);
    for (int64_t tap = 0; tap < parts.taps; ++tap) {
      float* const to = output + (flipped ? parts.taps - 1 - tap : tap) * channels * features;
      for (int64_t c = 0; c < depth; ++c) {
        const int64_t channel = channel_block * kDepth + c;
        const int64_t offset = tap * parts.tap_size() + c * block;
        if (!swapped) {
          add_up(part, offset, to + channel * features + feature);
          continue;
        }
        alignas(64) float total[2 * kLanes];
        add_up(part, offset, total);
        for (int64_t d = 0; d < block; ++d) to[(feature + d) * channels + channel] = total[d];
      }
    }
    if (channel_block == 0) add_up(part, parts.taps * parts.tap_size(), sum + feature);
  }
}

}  // namespace dmphn

#endif  // DMPHN_JAX_FILTER_GRADIENT_H_
