#include "core/address_range.h"

namespace liger {
namespace {

constexpr size_t kPage = 4096;

}  // namespace

void AddressRange::add_hole(char* at, size_t size) {
  holes_[at] = size;
  by_size_.insert({size, at});
}

void AddressRange::remove_hole(std::map<char*, size_t>::iterator hole) {
  by_size_.erase({hole->second, hole->first});
  holes_.erase(hole);
}

char* AddressRange::take(size_t bytes) {
  if (bytes > static_cast<size_t>(end_ - begin_)) return nullptr;  // also what rounding up would overflow
  const size_t size = (bytes + kPage - 1) / kPage * kPage;
  const auto fit = by_size_.lower_bound({size, nullptr});
  char* part = top_;
  if (fit != by_size_.end()) {
    const auto [hole_size, at] = *fit;
    remove_hole(holes_.find(at));
    if (hole_size > size) add_hole(at + size, hole_size - size);
    part = at;
  } else {
    if (size > static_cast<size_t>(end_ - top_)) return nullptr;
    top_ += size;
  }
  used_[part] = size;
  return part;
}

bool AddressRange::give_back(char* part) {
  const auto found = used_.find(part);
  if (found == used_.end()) return false;
  char* at = part;
  size_t size = found->second;
  used_.erase(found);
  const auto after = holes_.find(at + size);
  if (after != holes_.end()) {
    size += after->second;
    remove_hole(after);
  }
  auto before = holes_.lower_bound(at);
  if (before != holes_.begin() && (--before)->first + before->second == at) {
    at = before->first;
    size += before->second;
    remove_hole(before);
  }
  if (at + size == top_) {
    top_ = at;
  } else {
    add_hole(at, size);
  }
  return true;
}

}  // namespace liger
