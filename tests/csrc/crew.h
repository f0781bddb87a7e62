// A team of threads with a barrier: what a thread block is on a GPU, for running its code path on a CPU.
#pragma once

#include <condition_variable>
#include <mutex>

class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}

  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    const long round = round_;
    if (++waiting_ == count_) {
      waiting_ = 0;
      ++round_;
      all_here_.notify_all();
    } else {
      all_here_.wait(lock, [&] { return round != round_; });
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_here_;
  const int count_;
  int waiting_ = 0;
  long round_ = 0;
};

class Crew {
 public:
  Crew(int rank, int size, Barrier* barrier) : rank_(rank), size_(size), barrier_(barrier) {}
  int rank() const { return rank_; }
  int size() const { return size_; }
  void sync() const { barrier_->wait(); }
  void add(int* target, int value) const { __atomic_fetch_add(target, value, __ATOMIC_RELAXED); }

 private:
  int rank_, size_;
  Barrier* barrier_;
};
