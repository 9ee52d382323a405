#pragma once

#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "io/text.h"
#include "liger/error.h"

// nlohmann's tokenizer made strict: it alone would accept a byte-order mark, stop at a NUL, keep the last of two equal
// keys and turn large integers into doubles. The first two are refused here, the rest by the handlers.

namespace liger::detail {

/// The text being parsed and how far the tokenizer has read. After a string token the position is exact.
class JsonText {
 public:
  JsonText(std::string_view text, std::string source, size_t first_line = 1)
      : text_(text), source_(std::move(source)), first_line_(first_line), cursor_(text.data()) {}
  std::string_view text() const { return text_; }
  size_t offset() const { return static_cast<size_t>(cursor_ - text_.data()); }
  /// Where the string token that was just read begins.
  size_t string_start() const;
  /// Throws Error(kBadInput) "source:line:column: what".
  [[noreturn]] void fail_at(size_t offset, const std::string& what) const;

  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = char;
    using difference_type = std::ptrdiff_t;
    using pointer = const char*;
    using reference = const char&;
    Iterator(const char** at, const char* end) : at_(at), end_(end) {}
    reference operator*() const { return **at_; }
    Iterator& operator++() {
      ++*at_;
      return *this;
    }
    Iterator operator++(int) {
      ++*at_;
      return *this;
    }
    /// Only ever asked "is this the end?".
    bool operator==(const Iterator&) const { return *at_ == end_; }

   private:
    const char** at_;
    const char* end_;
  };
  Iterator begin() { return {&cursor_, text_.data() + text_.size()}; }
  Iterator end() { return begin(); }

 private:
  std::string_view text_;
  std::string source_;
  size_t first_line_;
  const char* cursor_;
};

/// Base of the handlers: syntax errors as "source:line:column: reason".
class StrictSax {
 public:
  explicit StrictSax(JsonText& text) : text_(text) {}
  bool binary(nlohmann::json::binary_t&) { return false; }  // never comes from text
  bool parse_error(size_t position, const std::string& token, const nlohmann::detail::exception& error);

 protected:
  [[noreturn]] void fail_here(const std::string& what) const { text_.fail_at(last_byte(), what); }
  [[noreturn]] void fail_at_string(const std::string& what) const { text_.fail_at(text_.string_start(), what); }
  size_t last_byte() const { return text_.offset() == 0 ? 0 : text_.offset() - 1; }
  /// An integer too long for 64 bits reaches a handler as a float.
  void refuse_long_integer(const std::string& digits) const;
  JsonText& text_;
};

/// What no handler sees: byte-order mark and NUL.
void check_json_bytes(const JsonText& text);

template <typename Handler>
void run_strict_sax(JsonText& text, Handler& handler) {
  check_json_bytes(text);
  nlohmann::json::sax_parse(text.begin(), text.end(), &handler);
}

}  // namespace liger::detail
