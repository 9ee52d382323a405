#include "liger/core/recursion.h"

#include "core/names.h"
#include "liger/error.h"

namespace liger {
namespace {

constexpr Name<Sharing> kSharings[] = {{Sharing::kCycle, "cycle"},
                                       {Sharing::kSequence, "sequence"},
                                       {Sharing::kMiddleCycle, "middle-cycle"},
                                       {Sharing::kMiddleSequence, "middle-sequence"}};

}  // namespace

const char* to_string(Sharing sharing) { return name_of(kSharings, sharing); }
Sharing sharing_from_name(const std::string& name) { return value_of(kSharings, name, "sharing"); }

int64_t Recursion::slot(int64_t depth, int64_t depths) const {
  const int64_t K = slots(depths);
  switch (sharing) {
    case Sharing::kCycle: return depth % K;
    case Sharing::kSequence: return depth / loops;
    default: break;
  }
  if (depth == 0) return 0;
  if (depth == depths - 1) return K - 1;
  return 1 + (sharing == Sharing::kMiddleCycle ? (depth - 1) % (K - 2) : (depth - 1) / loops);
}

std::vector<int64_t> Recursion::loop_ends(int64_t depths) const {
  std::vector<int64_t> out;
  if (!runs_in_loops()) return out;
  const int64_t ends = keeps_ends() ? 1 : 0, length = (depths - 2 * ends) / loops;
  for (int64_t loop = 1; loop <= loops; ++loop) out.push_back(ends + loop * length - 1);
  return out;
}

std::string Recursion::refuses(int64_t depths) const {
  if (loops < 2) return cat("loops: expected 2 or more, got ", loops);
  const int64_t shared = keeps_ends() ? depths - 2 : depths;
  if (shared <= 0) return cat("loops: expected layers to share, got ", depths, " in all");
  if (shared % loops == 0) return "";
  std::string fitting;
  for (int64_t n = 2; n <= shared; ++n)
    if (shared % n == 0) fitting += cat(fitting.empty() ? "" : ", ", n);
  return cat("loops: ", loops, " do not divide ", shared, " layers",
             keeps_ends() ? " between the first and the last" : "",
             fitting.empty() ? "" : cat("; expected one of ", fitting));
}

std::vector<std::pair<int64_t, int64_t>> Recursion::replication(int64_t depths) const {
  std::vector<std::pair<int64_t, int64_t>> ranges;
  for (int64_t depth = 0; depth < depths; ++depth) {
    const int64_t at = slot(depth, depths);
    const bool joins = !ranges.empty() && ranges.back().second == at;
    if (joins) {
      ++ranges.back().second;
    } else {
      ranges.emplace_back(at, at + 1);
    }
  }
  return ranges;
}

}  // namespace liger
