#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <utility>

namespace liger {

/// Hands out parts of a range of addresses, multiples of a page. Not for several threads at once.
class AddressRange {
 public:
  AddressRange(char* begin, size_t size) : begin_(begin), top_(begin), end_(begin + size) {}

  /// The smallest hole that holds `bytes`, or what lies above all that is used; nullptr if there is no room.
  char* take(size_t bytes);
  /// False if `part` did not come from here.
  bool give_back(char* part);
  /// From the begin to the last part in use.
  size_t extent() const { return static_cast<size_t>(top_ - begin_); }

 private:
  void add_hole(char* at, size_t size);
  void remove_hole(std::map<char*, size_t>::iterator hole);
  char *begin_, *top_, *end_;
  std::map<char*, size_t> used_, holes_;
  std::set<std::pair<size_t, char*>> by_size_;  // the holes
};

}  // namespace liger
