// How work is cut and run: heads into jobs.

#include "core/cpu_jobs.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>

namespace liger {
namespace {

using Lengths = std::vector<int64_t>;

int64_t largest(const std::vector<HeadsJob>& jobs) {
  int64_t out = 0;
  for (const HeadsJob& job : jobs) out = std::max(out, job.count);
  return out;
}

TEST(CutIntoJobs, TakesEveryHeadOnce) {
  for (const int64_t heads : {1, 2, 3, 5, 7, 8, 15})
    for (const int64_t threads : {1, 2, 4, 16}) {
      const Lengths lengths = {100, 0, 7};
      std::vector<std::vector<int>> seen(lengths.size(), std::vector<int>(heads, 0));
      for (const HeadsJob& job : cut_into_jobs(lengths, heads, threads))
        for (int64_t h = job.first; h < job.first + job.count; ++h) ++seen.at(job.sequence).at(h);
      for (const auto& sequence : seen)
        for (const int times : sequence) EXPECT_EQ(times, 1) << heads << " heads, " << threads << " threads";
    }
}

TEST(CutIntoJobs, TakesHeadsTogetherWhereThreadsStayBusy) {
  EXPECT_EQ(largest(cut_into_jobs({2048}, 8, 2)), 4);
  EXPECT_EQ(largest(cut_into_jobs({2048, 2048}, 16, 2)), 4);
  EXPECT_EQ(largest(cut_into_jobs({1024}, 6, 2)), 3);
  EXPECT_EQ(largest(cut_into_jobs({1024}, 4, 1)), 4);
  EXPECT_EQ(largest(cut_into_jobs({1024}, 8, 16)), 1);
  EXPECT_EQ(largest(cut_into_jobs({2048}, 8, 2, 1 << 20)), 1);
}

TEST(CutIntoJobs, CutsALongSequenceFurther) {
  EXPECT_EQ(largest(cut_into_jobs({4096, 16, 16, 16}, 4, 2)), 2);  // together they would be one thread's
  EXPECT_EQ(largest(cut_into_jobs({2048, 64, 64, 64}, 8, 8)), 1);
  EXPECT_EQ(largest(cut_into_jobs({1000}, 15, 4)), 4);  // 4 + 4 + 4 + 3
}

TEST(CutIntoJobs, TheLongestComeFirst) {
  const Lengths lengths = {3, 50, 20};
  const auto jobs = cut_into_jobs(lengths, 4, 3);
  for (size_t i = 1; i < jobs.size(); ++i)
    EXPECT_GE(lengths[jobs[i - 1].sequence] * jobs[i - 1].count, lengths[jobs[i].sequence] * jobs[i].count);
}

TEST(RunJobs, RunsEachOnceAndPassesOnWhatTheyThrow) {
  std::atomic<int64_t> sum = 0;
  run_jobs(100, [](int64_t) { return int64_t{64}; }, [&](int64_t job, void*) { sum += job; });
  EXPECT_EQ(sum, 4950);
  const auto fails = [](int64_t job, void*) {
    if (job == 7) throw std::runtime_error("seven");
  };
  EXPECT_THROW(run_jobs(100, [](int64_t) { return int64_t{64}; }, fails), std::runtime_error);
}

}  // namespace
}  // namespace liger
