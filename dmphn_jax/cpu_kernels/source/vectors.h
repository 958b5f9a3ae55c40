// Vectors of the processor, and rows of images laid out for them.

#ifndef DMPHN_JAX_VECTORS_H_
#define DMPHN_JAX_VECTORS_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

namespace dmphn {

// Floats of a vector, and how many pixels (in convolutions) or channels (in filter gradients) have
// two vectors of sums each in the registers: 32 with AVX-512 and on ARM, else 16.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kPixelTile = 12, kChannelTile = 8;
#elif defined(__AVX__)
constexpr int kLanes = 8, kPixelTile = 6, kChannelTile = 4;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kPixelTile = 10, kChannelTile = 8;  // with 12 GCC spills sums
#else
constexpr int kLanes = 4, kPixelTile = 6, kChannelTile = 4;
#endif

// Features that are computed together: two vectors, or one where two do not divide them all.
inline int64_t BlockOf(int64_t features) {
  return features % (2 * kLanes) == 0 ? 2 * kLanes : kLanes;
}

// Channels of one pixel whose products are summed before those of its neighbour.
constexpr int kDepth = 32;

typedef float Vec __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Vec& At(float* p) { return *reinterpret_cast<Vec*>(p); }
inline const Vec& At(const float* p) { return *reinterpret_cast<const Vec*>(p); }

// Memory that a thread keeps from one use to the next, for two uses at a time; not cleared. To take
// and free hundreds of kilobytes per call costs page faults. It begins where a vector may: a load
// across cache lines costs two.
enum class Use { kCall, kTask };
inline float* Scratch(Use use, int64_t count) {
  constexpr std::align_val_t kAlignment{64};
  struct Buffer {
    float* data = nullptr;
    int64_t size = 0;
    ~Buffer() { ::operator delete(data, kAlignment); }
  };
  thread_local Buffer buffers[2];
  Buffer& buffer = buffers[static_cast<int>(use)];
  if (buffer.size < count) {
    ::operator delete(buffer.data, kAlignment);
    buffer.data = nullptr;  // should the next line throw
    buffer.data = static_cast<float*>(::operator new(count * sizeof(float), kAlignment));
    buffer.size = count;
  }
  return buffer.data;
}

struct Shape {
  int64_t batch, height, width, channels;
  int64_t rows() const { return batch * height; }
};

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Length of part `i` of [0, count) in parts of `most`, of which the last may be shorter.
inline int64_t PartOf(int64_t count, int64_t most, int64_t i) {
  return std::min(most, count - i * most);
}

// Kernel<vectors, tile, kStep>::Run for 1 and 2 vectors and tiles of 1 to kMost: by [vectors - 1]
// and [tile - 1].
template <template <int, int, int> class Kernel, int kStep, int kMost>
struct Compiled {
  using Function = decltype(&Kernel<1, 1, kStep>::Run);
  using Tiles = std::array<Function, kMost>;

  template <int kVectors, int... kTiles>
  static constexpr Tiles Of(std::integer_sequence<int, kTiles...>) {
    return {&Kernel<kVectors, kTiles + 1, kStep>::Run...};
  }

  static constexpr auto kSequence = std::make_integer_sequence<int, kMost>();
  static constexpr Tiles kTable[2] = {Of<1>(kSequence), Of<2>(kSequence)};
};

// Calls f(begin, size) for parts of [0, count) of at most `most`, as equal as can be.
template <typename F>
void ForParts(int64_t count, int64_t most, const F& f) {
  // Divisions of 32 bits, and few: those of 64 take as long as many sums.
  const uint32_t total = count, parts = (total + most - 1) / static_cast<uint32_t>(most);
  const uint32_t size = total / parts, larger = total % parts;
  for (uint32_t i = 0, begin = 0; i < parts; ++i) {
    const uint32_t own = i < larger ? size + 1 : size;
    f(static_cast<int64_t>(begin), static_cast<int64_t>(own));
    begin += own;
  }
}

// The last few rows asked for of an image (B, H, W, C), each with a pixel of zeros at both ends
// and in blocks of kBlock channels: [block][1 + W + 1][kBlock]. One per thread at a time.
template <int kBlock>
class PaddedRows {
 public:
  // Keeps `count` rows, of the first so many channels.
  PaddedRows(const float* image, const Shape& shape, int64_t channels, int64_t count)
      : image_(image),
        shape_(shape),
        channels_(channels),
        count_(count),
        blocks_(CeilDiv(channels, kBlock)),
        block_stride_((shape.width + 2) * kBlock),
        present_(count, -1),
        rows_(Scratch(Use::kTask, count * blocks_ * block_stride_)) {
    for (int64_t i = 0; i < count * blocks_; ++i) {
      float* const row = rows_ + i * block_stride_;
      std::fill_n(row, kBlock, 0.0f);
      std::fill_n(row + (shape.width + 1) * kBlock, kBlock, 0.0f);
    }
  }

  // Returns block 0 of a row that lies inside an image, at its left border. It stays valid while
  // the rows asked for lie within `count` neighbours.
  const float* Row(int64_t batch, int64_t i) {
    const int64_t index = batch * shape_.height + i, slot = index % count_;
    float* row = rows_ + slot * blocks_ * block_stride_;
    if (present_[slot] != index) {
      present_[slot] = index;
      Copy(image_ + index * shape_.width * shape_.channels, row);
    }
    return row;
  }

  int64_t block_stride() const { return block_stride_; }

 private:
  void Copy(const float* source, float* row) const {
    for (int64_t b = 0; b < blocks_; ++b) {
      const int64_t depth = PartOf(channels_, kBlock, b);
      const float* from = source + b * kBlock;
      float* to = row + b * block_stride_ + kBlock;
      for (int64_t j = 0; j < shape_.width; ++j, from += shape_.channels, to += kBlock) {
        if (depth == kBlock) {
          std::memcpy(to, from, kBlock * sizeof(float));
        } else {
          for (int64_t c = 0; c < depth; ++c) to[c] = from[c];
        }
      }
    }
  }

  const float* image_;
  Shape shape_;
  int64_t channels_, count_, blocks_, block_stride_;
  std::vector<int64_t> present_;
  float* rows_;
};

}  // namespace dmphn

#endif  // DMPHN_JAX_VECTORS_H_
