#pragma once

#include <set>
#include <type_traits>
#include <utility>
#include <vector>

#include "io/json_sax.h"
#include "liger/io/json.h"

namespace liger::detail {

/// Builds a document; refuses duplicate keys, integers beyond 64 bits and deep nesting.
template <typename J>
class DomBuilder : public StrictSax {
 public:
  explicit DomBuilder(JsonText& text, LongIntegers long_integers = LongIntegers::kRefuse)
      : StrictSax(text), long_integers_(long_integers) {}
  J take() { return std::move(root_); }
  /// Offsets of the elements of an array at the root.
  const std::vector<size_t>& rows() const { return rows_; }

  bool null() { return put(nullptr); }
  bool boolean(bool value) { return put(value); }
  bool number_integer(int64_t value) { return put(value); }
  bool number_unsigned(uint64_t value) { return put(value); }
  bool number_float(double value, const std::string& digits) {
    if (long_integers_ == LongIntegers::kRefuse) refuse_long_integer(digits);
    return put(value);
  }
  bool string(std::string& value) { return put(std::move(value)); }
  bool start_object(size_t) { return open(J::object()); }
  bool start_array(size_t) { return open(J::array()); }
  bool end_object() {
    if constexpr (kOrdered) seen_.pop_back();
    return close();
  }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    auto& members = stack_.back()->template get_ref<typename J::object_t&>();
    if constexpr (kOrdered) {
      if (!seen_.back().insert(name).second) refuse_duplicate(name);
      // Through the vector underneath: the map's own insertion searches linearly, 10^5 keys would take minutes.
      using Members = std::vector<std::pair<const std::string, J>>;
      member_ = &static_cast<Members&>(members).emplace_back(std::move(name), nullptr).second;
    } else {
      const auto [at, fresh] = members.try_emplace(name, nullptr);
      if (!fresh) refuse_duplicate(name);
      member_ = &at->second;
    }
    return true;
  }

 private:
  static constexpr bool kOrdered = !std::is_same_v<J, Json>;
  static constexpr size_t kMaxDepth = 128;

  [[noreturn]] void refuse_duplicate(const std::string& name) const {
    fail_at_string("duplicate key '" + printable(name) + "'");
  }
  J* place(J&& value) {
    if (stack_.empty()) return &(root_ = std::move(value));
    if (stack_.back()->is_object()) return &(*member_ = std::move(value));
    if (stack_.size() == 1) rows_.push_back(last_byte());
    auto& elements = stack_.back()->template get_ref<typename J::array_t&>();
    return &elements.emplace_back(std::move(value));
  }
  template <typename T>
  bool put(T&& value) {
    place(J(std::forward<T>(value)));
    return true;
  }
  bool open(J&& value) {
    if (stack_.size() == kMaxDepth) fail_here("nesting deeper than 128");
    if constexpr (kOrdered) {
      if (value.is_object()) seen_.emplace_back();
    }
    stack_.push_back(place(std::move(value)));
    return true;
  }
  bool close() {
    stack_.pop_back();
    return true;
  }

  LongIntegers long_integers_;
  J root_;
  std::vector<J*> stack_;                    // a parent is not touched while a child is open, so the pointers hold
  std::vector<std::set<std::string>> seen_;  // keys of each open object; a tree, for no input makes it slow
  J* member_ = nullptr;
  std::vector<size_t> rows_;
};

}  // namespace liger::detail
