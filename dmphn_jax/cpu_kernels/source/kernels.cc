// The kernels as XLA's foreign functions.

#include <cstdint>

#include "convolve.h"
#include "convolve_minimally.h"
#include "filter_gradient.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace dmphn {
namespace {

using Images = ffi::Buffer<ffi::F32, 4>;
using Values = ffi::Buffer<ffi::F32, 1>;

ffi::Error Uneven() {
  return ffi::Error::InvalidArgument("features are no multiple of the processor's vectors");
}

Shape ShapeOf(const Images& x) {
  const auto d = x.dimensions();
  return {d[0], d[1], d[2], d[3]};
}

ffi::Error ConvolveImpl(ffi::ThreadPool pool, Images image, Images kernel, Values bias,
                        ffi::Buffer<ffi::F32> residual, ffi::Result<Images> output,
                        int64_t stride, bool transposed, bool swapped, bool flipped, bool relu) {
  const Convolution conv = {ShapeOf(image), kernel.dimensions()[0], stride, transposed,
                            ShapeOf(*output).channels};
  if (conv.features % kLanes != 0) return Uneven();
  // Arrays without elements stand for none.
  const Ends ends = {bias.element_count() > 0 ? bias.typed_data() : nullptr,
                     residual.element_count() > 0 ? residual.typed_data() : nullptr, relu};
  const auto convolve = IsMinimal(conv) ? ConvolveMinimally : Convolve;
  convolve(pool, conv, image.typed_data(), kernel.typed_data(), {swapped, flipped}, ends,
           output->typed_data());
  return ffi::Error::Success();
}

ffi::Error FilterGradientImpl(ffi::ThreadPool pool, Images large, Images small,
                              ffi::Result<Images> output, ffi::Result<Values> sum, int64_t stride,
                              bool swapped, bool flipped) {
  const Correlation work = {ShapeOf(large), ShapeOf(small), output->dimensions()[0], stride};
  if (work.small.channels % kLanes != 0) return Uneven();
  FilterGradient(pool, work, large.typed_data(), small.typed_data(), swapped, flipped,
                 output->typed_data(), sum->typed_data());
  return ffi::Error::Success();
}

}  // namespace

// The number that features must be a multiple of.
extern "C" int dmphn_lanes() { return kLanes; }

XLA_FFI_DEFINE_HANDLER_SYMBOL(dmphn_convolve, ConvolveImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Images>()
                                  .Arg<Images>()
                                  .Arg<Values>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<Images>()
                                  .Attr<int64_t>("stride")
                                  .Attr<bool>("transposed")
                                  .Attr<bool>("swapped")
                                  .Attr<bool>("flipped")
                                  .Attr<bool>("relu"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(dmphn_filter_gradient, FilterGradientImpl,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Images>()
                                  .Arg<Images>()
                                  .Ret<Images>()
                                  .Ret<Values>()
                                  .Attr<int64_t>("stride")
                                  .Attr<bool>("swapped")
                                  .Attr<bool>("flipped"));

}  // namespace dmphn
