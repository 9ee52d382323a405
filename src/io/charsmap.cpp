#include "io/charsmap.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "liger/error.h"

namespace liger::detail {
namespace {

uint32_t read_u32(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value |= static_cast<uint32_t>(static_cast<uint8_t>(bytes[at + i])) << (8 * i);
  return value;
}

/// The trie as the library reads it. A state is the place that a byte is XORed with to find the unit it leads to.
class Trie {
 public:
  Trie(std::string_view bytes, size_t values, const std::string& where)
      : bytes_(bytes), values_(values), where_(where), rules_(bytes.size() / 4, kNew) {}

  /// Visits every state that some text leads to; returns how many rules one text can have as prefixes.
  int longest_chain() {
    push(target(0));
    const uint32_t root = stack_.back().state;
    while (!stack_.empty()) {
      Visit& visit = stack_.back();
      if (visit.byte == 256) {
        rules_[visit.state] = visit.most;
        stack_.pop_back();
        continue;
      }
      const uint32_t at = visit.state ^ visit.byte;
      if ((unit(at) & kLabel) == visit.byte) {
        const uint32_t next = target(at);
        const bool rule = unit(at) >> 8 & 1;
        LIGER_CHECK(!rule || (unit(next) & 0x7FFFFFFF) < values_, where_, ": a rule points outside the replacements");
        LIGER_CHECK(rules_[next] != kOpen, where_, ": the trie has a cycle");
        if (rules_[next] == kNew) {
          push(next);  // this byte again when its rules are known
          continue;
        }
        visit.most = std::max(visit.most, rules_[next] + (rule ? 1 : 0));
      }
      ++visit.byte;
    }
    return rules_[root];
  }

 private:
  static constexpr uint32_t kLabel = 1U << 31 | 0xFF;
  static constexpr int kNew = -1, kOpen = -2;
  struct Visit {
    uint32_t state, byte;
    int most;
  };
  uint32_t unit(uint32_t at) const { return read_u32(bytes_, size_t{at} * 4); }
  uint32_t target(uint32_t at) const {
    const uint32_t here = unit(at), state = at ^ (here >> 10) << ((here & 1U << 9) >> 6);
    LIGER_CHECK(state < rules_.size(), where_, ": the trie points outside itself");
    return state;
  }
  void push(uint32_t state) {
    rules_[state] = kOpen;
    stack_.push_back({state, 0, 0});
  }

  std::string_view bytes_;
  size_t values_;
  const std::string& where_;
  std::vector<int> rules_;  // of each state: rules on the way on from it, or kNew, kOpen
  std::vector<Visit> stack_;
};

}  // namespace

void check_charsmap(std::string_view charsmap, const std::string& where) {
  constexpr size_t kBlock = 1024;  // bytes of the 256 units that one state can lead to
  constexpr int kMostRules = 32;
  LIGER_CHECK(charsmap.size() > 4, where, ": only ", charsmap.size(), " bytes");
  const size_t size = read_u32(charsmap, 0);
  const std::string_view body = charsmap.substr(4);
  LIGER_CHECK(size >= kBlock && size % kBlock == 0 && size < body.size(), where, ": a trie of ", size, " bytes in ",
              body.size());
  LIGER_CHECK(body.back() == '\0', where, ": the replacements do not end with NUL");
  const int chain = Trie(body.substr(0, size), body.size() - size, where).longest_chain();
  LIGER_CHECK(chain <= kMostRules, where, ": ", chain, " rules that are prefixes of one another, at most ", kMostRules);
}

}  // namespace liger::detail
