// Minimal filtering, F(2x2, 3x3) of Winograd, for 3x3 convolutions with a stride and a border of
// 1: Lavin and Gray (2016).

#ifndef DMPHN_JAX_WINOGRAD_H_
#define DMPHN_JAX_WINOGRAD_H_

#include "vectors.h"

namespace dmphn {

// A tile of 2x2 pixels of the output depends on 4x4 of the image x, d:
//   A^T [(B^T d B) * (G w G^T)] A
// where * goes by elements, and sums over channels: 16 products for each pair of channel and
// feature, in place of the 36 of four pixels. B and A add and subtract, G also halves. The gradient
// of w, from g at the output, is the sum over tiles of
//   G^T [(B^T d B) * (A g A^T)] G
constexpr int kPositions = 16;

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

// A of two vectors.
inline void TransformGradient(const Vec (&g)[2], Vec (&to)[4]) {
  to[0] = g[0];
  to[1] = g[0] + g[1];
  to[2] = g[0] - g[1];
  to[3] = -g[1];
}

// G^T of four vectors.
inline void TransformProducts(const Vec (&u)[4], Vec (&to)[3]) {
  const Vec sum = (u[1] + u[2]) * 0.5f;
  to[0] = u[0] + sum;
  to[1] = (u[1] - u[2]) * 0.5f;
  to[2] = sum + u[3];
}

// Neighbouring tiles of one row of tiles.
struct Run {
  int64_t batch, i, j;  // pixel at the first one's upper left
  int64_t count;
  int64_t at;  // number of the first one among the tiles that are computed together
};

// The tiles of an image's output, in the order of its pixels.
class Tiles {
 public:
  explicit Tiles(const Shape& image)
      : rows_(CeilDiv(image.height, 2)),
        columns_(CeilDiv(image.width, 2)),
        count_(image.batch * rows_ * columns_) {}

  int64_t count() const { return count_; }

  // Calls f(run) for the runs of tiles `begin` to `begin + count`.
  template <typename F>
  void ForRuns(int64_t begin, int64_t count, const F& f) const {
    for (int64_t at = 0; at < count;) {
      const int64_t row = (begin + at) / columns_, column = (begin + at) % columns_;
      const int64_t length = std::min(columns_ - column, count - at);
      f(Run{row / rows_, 2 * (row % rows_), 2 * column, length, at});
      at += length;
    }
  }

 private:
  int64_t rows_, columns_, count_;
};

// B^T d B of a run's tiles, for some channels of an image, from one on that `image` points at; by
// channel block, position and tile, kDepth floats: [channel block][position][kTiles][kDepth].
template <int64_t kTiles>
void TransformRun(const Shape& shape, const float* image, int64_t channels, const Run& run,
                  float* to) {
  alignas(64) static const float kZeros[kLanes] = {};
  for (int64_t c = 0; c < channels; c += kLanes) {
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
    float* out = to + (c / kDepth * kPositions * kTiles + run.at) * kDepth + c % kDepth;
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
        for (int k = 0; k < 4; ++k) At(out + (4 * i + k) * kTiles * kDepth) = whole[k];
      }
    }
  }
}

}  // namespace dmphn

#endif  // DMPHN_JAX_WINOGRAD_H_
