#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "liger/distributed/launch.h"
#include "liger/error.h"

namespace liger {

/// Another process has gone without a word, or was not heard of for too long.
class LostRank : public Error {
 public:
  explicit LostRank(const std::string& text) : Error(text, ErrorCode::kIo) {}
};

/// The processes that work on one thing together, over LibTorch's c10d: Gloo between CPUs, NCCL between GPUs.
/// Its functions are collective: every rank calls the same ones in the same order. A process that is alone needs no
/// network, and they return at once. They throw LostRank, or the Error with which another rank told that it stopped.
class Ranks {
 public:
  /// Waits for the others. Throws LostRank if they do not come within `timeout`, which is also how long one waits for a
  /// rank that is silent; a process that ends is noticed at once.
  Ranks(const Launch& launch, at::Device device, std::chrono::seconds timeout);
  ~Ranks();

  int rank() const { return launch_.rank; }
  int size() const { return launch_.size; }
  bool first() const { return launch_.rank == 0; }

  /// The sum over all ranks in place of `tensor`, the same bits everywhere.
  void sum(const at::Tensor& tensor) const;
  /// Begins it; the function returned waits for its end.
  std::function<void()> start_sum(const at::Tensor& tensor) const;
  /// What rank `from` has, in place of `tensor`.
  void broadcast(const at::Tensor& tensor, int from = 0) const;
  std::string broadcast(const std::string& text) const;
  /// Throws Error(kUsage) unless every rank gives the same lines, naming the first one in which it differs from rank 0.
  void check_same(const std::string& lines) const;

  /// Runs `body`, and tells the others why if it throws, so that theirs do too.
  void guard(const std::function<void()>& body);

 private:
  struct Connection;
  [[noreturn]] void lost(const std::string& what) const;
  void collective(const char* name, const std::function<void()>& body) const;
  void leave_with(const Error& error);
  void part(std::chrono::seconds patience);

  Launch launch_;
  at::Device device_;                       // of the tensors that texts travel in
  std::unique_ptr<Connection> connection_;  // null = alone, or left
};

}  // namespace liger
