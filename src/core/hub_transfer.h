#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/hub_client.h"

namespace liger::detail {

/// One thing to fetch, and where its bytes go.
struct Transfer {
  std::string what, url;
  uint64_t size = 0;  ///< of the whole; 0 = not known, and then no more than `limit`
  uint64_t limit = 0;
  std::string etag = {};                ///< what the hub must call it for a part of it to be continued
  std::function<uint64_t()> open = {};  ///< before the first byte: how many are there already
  std::function<void(std::string_view)> write = {};
  std::function<void()> restart = {};  ///< what is there is worth nothing
  /// All bytes are there; false = they are not what they should be, and were thrown away. Comes with the head of the
  /// last answer, if one was needed.
  std::function<bool(const HttpHead&)> done = {};
};

/// Fetches all of them, `at_once` side by side: follows redirects, goes on where a connection broke, waits as servers
/// ask. `tick` is called ten times a second or more; what it throws ends everything.
/// Throws the Error of the first that cannot be had.
void run_transfers(const Hub& hub, std::vector<Transfer> transfers, size_t at_once, const std::function<void()>& tick);

}  // namespace liger::detail
