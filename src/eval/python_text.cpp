#include "eval/python_text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "io/white_space.h"

namespace liger::eval {
namespace {

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

// The code point that starts at `text[at]`; no white space is longer than three bytes.
char32_t code_point_at(std::string_view text, size_t at, size_t bytes) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[at + i]); };
  if (bytes == 1) return byte(0);
  if (bytes == 2) return (byte(0) & 0x1fu) << 6 | (byte(1) & 0x3fu);
  if (bytes == 3) return (byte(0) & 0x0fu) << 12 | (byte(1) & 0x3fu) << 6 | (byte(2) & 0x3fu);
  return 0;
}

void append_string(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      case '\f': out += "\\f"; break;
      case '\b': out += "\\b"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          constexpr std::string_view kHex = "0123456789abcdef";
          out += "\\u00";
          out += kHex[static_cast<unsigned char>(c) >> 4];
          out += kHex[c & 0xf];
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

class JsonPrinter {
 public:
  explicit JsonPrinter(int indent) : indent_(indent) {}

  void print(const OrderedJson& value) {
    if (value.is_object()) {
      container('{', '}', value, [&](const auto& item) {
        append_string(out, item.key());
        out += ": ";
      });
    } else if (value.is_array()) {
      container('[', ']', value, [](const auto&) {});
    } else if (value.is_string()) {
      append_string(out, value.get_ref<const std::string&>());
    } else if (value.is_number_float()) {
      out += python_repr(value.get<double>());
    } else {
      out += value.dump();  // null, true, false and integers are written alike
    }
  }

  std::string out;

 private:
  template <typename Key>
  void container(char open, char close, const OrderedJson& value, const Key& key) {
    out += open;
    ++depth_;
    bool first = true;
    for (const auto& item : value.items()) {
      if (!first) out += indent_ > 0 ? "," : ", ";
      first = false;
      new_line();
      key(item);
      print(item.value());
    }
    --depth_;
    if (!first) new_line();
    out += close;
  }

  void new_line() {
    if (indent_ > 0) out.append("\n").append(static_cast<size_t>(indent_ * depth_), ' ');
  }

  int indent_, depth_ = 0;
};

}  // namespace

size_t trailing_space_bytes(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t start = end - 1;
    while (start > 0 && is_continuation(text[start])) --start;
    if (!detail::is_white_space(code_point_at(text, start, end - start))) break;
    end = start;
  }
  return text.size() - end;
}

int64_t code_points(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return !is_continuation(c); });
}

std::string python_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::array<char, 32> buffer{};
  const auto end =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific).ptr;
  std::string_view text(buffer.data(), static_cast<size_t>(end - buffer.data()));  // "-d.ddde+XX"
  std::string out;
  if (text.front() == '-') {
    out = "-";
    text.remove_prefix(1);
  }
  const size_t e = text.find('e');
  int exponent = 0;
  std::from_chars(text.data() + e + (text[e + 1] == '+' ? 2 : 1), text.data() + text.size(), exponent);
  std::string digits(1, text[0]);
  if (e > 2) digits += text.substr(2, e - 2);
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (count > 1) out += "." + digits.substr(1);
    const std::string power = std::to_string(std::abs(exponent));
    return out + "e" + (exponent < 0 ? "-" : "+") + (power.size() < 2 ? "0" : "") + power;
  }
  if (exponent < 0) return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  if (count <= exponent + 1) return out + digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
  return out + digits.substr(0, exponent + 1) + "." + digits.substr(exponent + 1);
}

std::string python_json(const OrderedJson& value, int indent) {
  JsonPrinter printer(indent);
  printer.print(value);
  return std::move(printer.out);
}

}  // namespace liger::eval
