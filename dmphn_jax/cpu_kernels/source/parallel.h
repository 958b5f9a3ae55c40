// Sharing work between the calling thread and XLA's thread pool.

#ifndef DMPHN_JAX_PARALLEL_H_
#define DMPHN_JAX_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

namespace dmphn {

// Calls work(0), ..., work(count - 1), each once, in any order and on any thread; returns when all
// have returned. The caller works too, so a pool whose threads are all busy delays it, no more.
template <typename Work>
void ParallelFor(xla::ffi::ThreadPool& pool, int64_t count, const Work& work) {
  struct Shared {
    std::atomic<int64_t> next{0};
    int64_t done = 0;
    std::mutex mutex;
    std::condition_variable all_done;
  };
  auto shared = std::make_shared<Shared>();
  // `work` lives as long as the caller waits: a helper that starts later finds no task left.
  auto run = [shared, count, &work] {
    int64_t finished = 0;
    for (int64_t task; (task = shared->next.fetch_add(1)) < count; ++finished) work(task);
    if (finished == 0) return;
    std::lock_guard<std::mutex> lock(shared->mutex);
    shared->done += finished;
    if (shared->done == count) shared->all_done.notify_one();
  };
  const int64_t helpers = std::min(pool.num_threads(), count) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule(decltype(run)(run));
  run();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done == count; });
}

}  // namespace dmphn

#endif  // DMPHN_JAX_PARALLEL_H_
