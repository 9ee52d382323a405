#pragma once

#include <cstdint>
#include <vector>

#include "eval/python_random.h"
#include "liger/eval/document.h"

namespace liger::eval {

/// Few-shot examples of one task: drawn document after document, from one stream, as lm-evaluation-harness does.
class ExampleSampler {
 public:
  /// Throws Error(kUsage) if the pool is too small.
  ExampleSampler(const Task& task, const TaskData& pool, int64_t shots, uint32_t seed);
  /// Rows of the pool for a document.
  std::vector<size_t> draw(const OrderedJson& document);

 private:
  std::vector<size_t> others(const OrderedJson& document) const;

  const Task& task_;
  const TaskData& pool_;
  int64_t shots_;
  PythonRandom random_;
};

}  // namespace liger::eval
