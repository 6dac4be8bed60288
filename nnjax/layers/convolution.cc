// The three products of a convolution by oneDNN, as functions that XLA calls on CPUs.
//
// Images (n, H, W, C), weights (J, kh, kw, C) and feature maps (n, oh, ow, J) are float32. The
// threads of XLA's own pool share out the images, and each computes its share alone: the OpenMP of
// oneDNN starts no threads.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"
#include "xla/ffi/api/ffi.h"

extern "C" int omp_get_max_threads();
extern "C" void omp_set_num_threads(int);

namespace ffi = xla::ffi;

namespace {

using dnnl::memory;
using Array = ffi::Buffer<ffi::F32, 4>;
using Result = ffi::ResultBuffer<ffi::F32, 4>;
using Numbers = ffi::Span<const int64_t>;  // stride, dilation, margins before, margins after

enum Product { kForward, kPullBack, kWeightGradient };

// Lets OpenMP use one thread until the end of the scope.
class Alone {
 public:
  Alone() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~Alone() { omp_set_num_threads(before_); }

 private:
  int before_;
};

// What is computed: sizes in oneDNN's order (images, channels, height, width).
struct Problem {
  Product product;
  memory::dims images, weights, maps, stride, dilation, before, after;

  auto Fields() const {
    return std::tie(product, images, weights, maps, stride, dilation, before, after);
  }
  bool operator<(const Problem& other) const { return Fields() < other.Fields(); }
};

// How it is computed.
struct Plan {
  dnnl::primitive convolution;
  memory::desc weights, scratch;  // in the order that oneDNN prefers
};

const dnnl::engine& Cpu() {
  static const auto& cpu = *new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return cpu;
}

memory::desc Ordered(const memory::dims& sizes, memory::format_tag order) {
  return {sizes, memory::data_type::f32, order};
}

Plan Make(const Problem& p) {
  const auto direct = dnnl::algorithm::convolution_direct;
  const auto images = Ordered(p.images, memory::format_tag::nhwc);
  const auto weights = Ordered(p.weights, memory::format_tag::any);
  const auto maps = Ordered(p.maps, memory::format_tag::nhwc);
  dnnl::primitive_attr attributes;  // threads share a primitive, each with scratch of its own
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::convolution_forward::primitive_desc forward(
      Cpu(), dnnl::prop_kind::forward_training, direct, images, weights, maps, p.stride,
      p.dilation, p.before, p.after, attributes);
  if (p.product == kForward)
    return {dnnl::convolution_forward(forward), forward.weights_desc(), forward.scratchpad_desc()};
  if (p.product == kPullBack) {
    const dnnl::convolution_backward_data::primitive_desc back(
        Cpu(), direct, images, weights, maps, p.stride, p.dilation, p.before, p.after, forward,
        attributes);
    return {dnnl::convolution_backward_data(back), back.weights_desc(), back.scratchpad_desc()};
  }
  const dnnl::convolution_backward_weights::primitive_desc gradient(
      Cpu(), direct, images, weights, maps, p.stride, p.dilation, p.before, p.after, forward,
      attributes);
  return {dnnl::convolution_backward_weights(gradient), gradient.diff_weights_desc(),
          gradient.scratchpad_desc()};
}

// Returns the plan for a problem, made once and kept: there is one for every shape in a program.
const Plan& PlanFor(const Problem& problem) {
  static auto& mutex = *new std::mutex;
  static auto& plans = *new std::map<Problem, Plan>;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = plans.find(problem);
  return found == plans.end() ? plans.emplace(problem, Make(problem)).first->second : found->second;
}

// Computes a product by the calling thread; its weights, or their gradient, are (J, kh, kw, C).
void Compute(const Problem& problem, float* images, float* weights, float* maps) {
  const Alone alone;
  const Plan& plan = PlanFor(problem);
  dnnl::stream stream(Cpu());
  const auto array = [](const memory::dims& sizes, memory::format_tag order, float* data) {
    return memory(Ordered(sizes, order), Cpu(), data);
  };
  memory a = array(problem.images, memory::format_tag::nhwc, images);
  memory z = array(problem.maps, memory::format_tag::nhwc, maps);
  memory ours = array(problem.weights, memory::format_tag::ohwi, weights);
  memory theirs = plan.weights == ours.get_desc() ? ours : memory(plan.weights, Cpu());
  memory scratch(plan.scratch, Cpu());
  const auto execute = [&](int a_is, int w_is, int z_is) {
    plan.convolution.execute(
        stream, {{a_is, a}, {w_is, theirs}, {z_is, z}, {DNNL_ARG_SCRATCHPAD, scratch}});
  };
  const bool reorder = theirs.get() != ours.get();
  if (reorder && problem.product != kWeightGradient)
    dnnl::reorder(ours, theirs).execute(stream, ours, theirs);
  switch (problem.product) {
    case kForward:
      execute(DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST);
      break;
    case kPullBack:
      execute(DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST);
      break;
    case kWeightGradient:
      execute(DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST);
      if (reorder) dnnl::reorder(theirs, ours).execute(stream, theirs, ours);
  }
  stream.wait();
}

// Calls f(0), ..., f(parts - 1), by threads of the pool and by this one.
//
// This thread may be one of the pool's, and all others may be busy: it takes parts itself, and
// waits only for those that another thread has begun.
template <typename F>
void InParallel(ffi::ThreadPool& pool, int64_t parts, const F& f) {
  struct Work {
    std::atomic<int64_t> next{0};
    int64_t done = 0;
    std::string error;
    std::mutex mutex;
    std::condition_variable finished;
  };
  const auto work = std::make_shared<Work>();
  const std::function<void()> take = [work, parts, &f] {  // uses f while a part is left
    for (int64_t part; (part = work->next++) < parts;) {
      std::string error;
      try {
        f(part);
      } catch (const std::exception& failure) {
        error = failure.what();
      }
      const std::lock_guard<std::mutex> lock(work->mutex);
      if (!error.empty()) work->error = error;
      if (++work->done == parts) work->finished.notify_one();
    }
  };
  for (int64_t other = 1; other < parts; ++other) pool.Schedule(std::function<void()>(take));
  take();
  std::unique_lock<std::mutex> lock(work->mutex);
  work->finished.wait(lock, [&] { return work->done == parts; });
  if (!work->error.empty()) throw std::runtime_error(work->error);
}

ffi::Error Run(Product product, ffi::ThreadPool pool, const Array& images, const Array& weights,
               const Array& maps, Numbers g) {
  const auto a = images.dimensions(), w = weights.dimensions(), z = maps.dimensions();
  const int64_t n = a[0], size = weights.element_count();
  const bool gradient = product == kWeightGradient;
  if (n == 0) {
    if (gradient) std::fill_n(weights.typed_data(), size, 0.0f);
    return ffi::Error::Success();
  }
  const int64_t parts = std::clamp<int64_t>(pool.num_threads(), 1, n);
  std::vector<float> others(gradient ? (parts - 1) * size : 0);  // of all parts but the first
  const auto part_of_images = [&](int64_t part) {
    const int64_t first = part * n / parts, count = (part + 1) * n / parts - first;
    const Problem problem{product,
                          {count, a[3], a[1], a[2]},
                          {w[0], w[3], w[1], w[2]},
                          {count, z[3], z[1], z[2]},
                          {g[0], g[1]},
                          {g[2] - 1, g[3] - 1},  // oneDNN counts the inputs left out
                          {g[4], g[5]},
                          {g[6], g[7]}};
    Compute(problem, images.typed_data() + first * a[1] * a[2] * a[3],
            gradient && part ? &others[(part - 1) * size] : weights.typed_data(),
            maps.typed_data() + first * z[1] * z[2] * z[3]);
  };
  try {
    InParallel(pool, parts, part_of_images);
  } catch (const std::exception& failure) {
    return ffi::Error::Internal(std::string("oneDNN: ") + failure.what());
  }
  for (size_t i = 0; i < others.size(); ++i) weights.typed_data()[i % size] += others[i];
  return ffi::Error::Success();
}

ffi::Error Forward(ffi::ThreadPool pool, Array images, Array weights, Numbers geometry,
                   Result maps) {
  return Run(kForward, pool, images, weights, *maps, geometry);
}

ffi::Error PullBack(ffi::ThreadPool pool, Array maps, Array weights, Numbers geometry,
                    Result images) {
  return Run(kPullBack, pool, *images, weights, maps, geometry);
}

ffi::Error WeightGradient(ffi::ThreadPool pool, Array images, Array maps, Numbers geometry,
                          Result weights) {
  return Run(kWeightGradient, pool, images, *weights, maps, geometry);
}

auto Signature() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<Array>()
      .Arg<Array>()
      .Attr<Numbers>("geometry")
      .Ret<Array>();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(nnjax_onednn_forward, Forward, Signature());
XLA_FFI_DEFINE_HANDLER_SYMBOL(nnjax_onednn_pull_back, PullBack, Signature());
XLA_FFI_DEFINE_HANDLER_SYMBOL(nnjax_onednn_weight_gradient, WeightGradient, Signature());
