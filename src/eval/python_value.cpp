#include "eval/python_value.h"

#include <algorithm>

#include "eval/python_text.h"
#include "io/utf8.h"
#include "io/white_space.h"
#include "liger/error.h"

namespace liger::eval {
namespace {

// What repr() escapes of a text. It also escapes what Unicode calls unprintable; nobody compares those.
std::string quote(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char mark = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, mark);
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == mark || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7F) {
      constexpr std::string_view kHex = "0123456789abcdef";
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 0xF];
    } else {
      out += c;
    }
  }
  return out + mark;
}

// Whether the character at `at` of `text` is to be stripped.
template <typename Strips>
std::string_view strip_if(std::string_view text, Ends ends, const Strips& strips) {
  while (ends != Ends::kRight && !text.empty()) {
    size_t after = 0;
    if (!strips(detail::next_char(text, after))) break;
    text.remove_prefix(after);
  }
  while (ends != Ends::kLeft && !text.empty()) {
    size_t begin = text.size() - 1;
    while (begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
    size_t at = begin;
    if (!strips(detail::next_char(text, at))) break;
    text = text.substr(0, begin);
  }
  return text;
}

bool is_number(const OrderedJson& value) { return value.is_number() || value.is_boolean(); }
double number(const OrderedJson& value) {
  return value.is_boolean() ? (value.get<bool>() ? 1 : 0) : value.get<double>();
}

}  // namespace

std::string python_repr_of(const OrderedJson& value) {
  if (value.is_null()) return "None";
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  if (value.is_string()) return quote(value.get_ref<const std::string&>());
  if (value.is_number_float()) return python_repr(value.get<double>());
  if (value.is_number()) return value.dump();
  std::string out(1, value.is_array() ? '[' : '{');
  for (const auto& item : value.items()) {
    if (out.size() > 1) out += ", ";
    if (value.is_object()) out += quote(item.key()) + ": ";
    out += python_repr_of(item.value());
  }
  return out + (value.is_array() ? ']' : '}');
}

std::string python_str(const OrderedJson& value) {
  return value.is_string() ? value.get<std::string>() : python_repr_of(value);
}

bool is_true(const OrderedJson& value) {
  if (value.is_null()) return false;
  if (is_number(value)) return number(value) != 0;
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  return !value.empty();
}

bool are_equal(const OrderedJson& a, const OrderedJson& b) {
  if (is_number(a) && is_number(b)) return number(a) == number(b);
  if (a.is_array() && b.is_array()) return std::equal(a.begin(), a.end(), b.begin(), b.end(), are_equal);
  if (!a.is_object() || !b.is_object()) return a == b;
  if (a.size() != b.size()) return false;
  for (const auto& item : a.items()) {  // in any order
    const auto other = b.find(item.key());
    if (other == b.end() || !are_equal(item.value(), *other)) return false;
  }
  return true;
}

std::string describe(const OrderedJson& value) {
  if (value.is_null()) return "nothing";
  if (value.is_string()) return "a string";
  if (value.is_boolean()) return "true or false";
  if (value.is_number()) return cat("the number ", value.dump());
  return cat(value.is_array() ? "a list of " : "an object of ", value.size());
}

std::string_view stripped(std::string_view text, Ends ends) { return strip_if(text, ends, detail::is_white_space); }

std::string_view stripped(std::string_view text, std::string_view characters, Ends ends) {
  return strip_if(text, ends, [&](char32_t c) {
    for (size_t at = 0; at < characters.size();)
      if (detail::next_char(characters, at) == c) return true;
    return false;
  });
}

std::vector<std::string> split(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    if (!detail::is_white_space(detail::next_char(text, at))) {
      word += text.substr(begin, at - begin);
    } else if (!word.empty()) {
      words.push_back(std::move(word));
      word.clear();
    }
  }
  if (!word.empty()) words.push_back(std::move(word));
  return words;
}

std::vector<std::string> split(std::string_view text, std::string_view separator, int64_t limit) {
  LIGER_CHECK(!separator.empty(), "split(): expected a separator, got ''");
  std::vector<std::string> parts;
  for (size_t found; limit != 0 && (found = text.find(separator)) != std::string_view::npos; --limit) {
    parts.emplace_back(text.substr(0, found));
    text.remove_prefix(found + separator.size());
  }
  parts.emplace_back(text);
  return parts;
}

std::string replaced(std::string_view text, std::string_view from, std::string_view to, int64_t limit) {
  LIGER_CHECK(!from.empty(), "replace(): expected what to replace, got ''");
  std::string out;
  for (size_t found; limit != 0 && (found = text.find(from)) != std::string_view::npos; --limit) {
    out.append(text.substr(0, found)).append(to);
    text.remove_prefix(found + from.size());
  }
  return out.append(text);
}

}  // namespace liger::eval
