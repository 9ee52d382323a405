#include "eval/examples.h"

#include <numeric>

#include "eval/python_value.h"
#include "liger/error.h"

namespace liger::eval {

ExampleSampler::ExampleSampler(const Task& task, const TaskData& pool, int64_t shots, uint32_t seed)
    : task_(task), pool_(pool), shots_(shots), random_(seed) {
  const int64_t size = std::ssize(pool.rows), needed = shots + (task.drop_document && !task.first_examples ? 1 : 0);
  LIGER_CHECK_USAGE(size >= needed, pool.file.string(), ": ", shots, " few-shot examples need at least ", needed,
                    " rows to draw from, got ", size);
}

std::vector<size_t> ExampleSampler::draw(const OrderedJson& document) {
  std::vector<size_t> rows;
  if (task_.first_examples) {
    rows = others(document);
  } else {
    for (const int64_t row : random_.sample(std::ssize(pool_.rows), shots_ + (task_.drop_document ? 1 : 0)))
      if (!task_.drop_document || !are_equal(pool_.rows[row], document)) rows.push_back(static_cast<size_t>(row));
  }
  if (std::ssize(rows) < shots_) {  // the document is there several times, and more than one of them was drawn
    const std::vector<size_t> pool = others(document);
    LIGER_CHECK_USAGE(std::ssize(pool) >= shots_, pool_.file.string(), ": only ", pool.size(),
                      " rows differ from the document, too few for ", shots_, " few-shot examples");
    rows.clear();
    for (const int64_t i : random_.sample(std::ssize(pool), shots_)) rows.push_back(pool[i]);
  }
  rows.resize(static_cast<size_t>(shots_));
  return rows;
}

std::vector<size_t> ExampleSampler::others(const OrderedJson& document) const {
  std::vector<size_t> rows(pool_.rows.size());
  std::iota(rows.begin(), rows.end(), size_t{0});
  if (task_.drop_document) std::erase_if(rows, [&](size_t i) { return are_equal(pool_.rows[i], document); });
  return rows;
}

}  // namespace liger::eval
