#include "liger/io/jsonl.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "io/byte_source.h"
#include "io/json_dom.h"
#include "io/text.h"
#include "liger/error.h"

namespace liger {
namespace {

constexpr size_t kMaxLine = size_t{32} << 20, kMaxArray = size_t{1} << 30;
constexpr size_t kPiece = size_t{1} << 18;

std::filesystem::path existing(const std::filesystem::path& file) {
  std::error_code ignored;
  LIGER_CHECK(std::filesystem::exists(file, ignored) || ignored, file.string(), ": no such file");
  return file;
}

/// Lines of a file in bounded memory.
class LineSource {
 public:
  explicit LineSource(const std::filesystem::path& file) : bytes_(file) {}

  /// The next line without its end, valid until the next call; nothing at the end of the file.
  std::optional<std::string_view> next() {
    size_t searched = 0;
    while (true) {
      const size_t newline = buffer_.find('\n', begin_ + searched);
      if (newline != std::string::npos) return take(newline, newline + 1);
      searched = buffer_.size() - begin_;
      if (searched > kMaxLine) return take(begin_ + searched, begin_ + searched);
      if (!fill()) {
        if (searched == 0) return std::nullopt;
        return take(buffer_.size(), buffer_.size());
      }
    }
  }

 private:
  std::string_view take(size_t end, size_t next) {
    const std::string_view line = std::string_view(buffer_).substr(begin_, end - begin_);
    begin_ = next;
    ++line_;
    return line;
  }
  bool fill() {
    buffer_.erase(0, begin_);
    begin_ = 0;
    const size_t kept = buffer_.size();
    // At once, so that a long line is not moved again and again; what is not reached costs address space only.
    if (kept >= kPiece) buffer_.reserve(kMaxLine + 2 * kPiece);
    buffer_.resize(kept + kPiece);
    const size_t got = bytes_.read(buffer_.data() + kept, kPiece, line_ + 1);
    buffer_.resize(kept + got);
    return got > 0;
  }

  detail::ByteSource bytes_;
  std::string buffer_;
  size_t begin_ = 0;
  int64_t line_ = 0;  // last taken, from 1
};

/// A whole file, unpacked.
std::string read_all(const std::filesystem::path& file) {
  detail::ByteSource bytes(file);
  std::string text;
  int64_t line = 1;
  while (true) {
    const size_t kept = text.size();
    text.resize(kept + std::max(kPiece, kept / 2));
    const size_t got = bytes.read(text.data() + kept, text.size() - kept, line);
    text.resize(kept + got);
    if (got == 0) return text;
    LIGER_CHECK(text.size() <= kMaxArray, file.string(),
                ": an array of more than 1 GiB; a larger file has one object a line and is named .jsonl");
    line += std::count(text.begin() + static_cast<long>(kept), text.end(), '\n');
  }
}

struct Row {
  OrderedJson value;
  int64_t line;
};

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r") == std::string_view::npos; }

}  // namespace

struct JsonlReader::Impl {
  std::filesystem::path file;
  std::optional<LineSource> lines;  // unless the file is one array
  std::vector<Row> rows;
  size_t next_row = 0;
  int64_t line = 0;

  void read_array();
  template <typename J>
  std::optional<J> next_line();
  template <typename J>
  std::optional<J> next();
};

void JsonlReader::Impl::read_array() {
  const std::string text = read_all(file);
  detail::JsonText json(text, file.string());
  detail::DomBuilder<OrderedJson> builder(json);
  detail::run_strict_sax(json, builder);
  OrderedJson array = builder.take();
  LIGER_CHECK(array.is_array(), file.string(),
              ":1: expected an array of objects; a file of one object per line is "
              "named .jsonl");
  int64_t at_line = 1;
  size_t at = 0;
  for (size_t i = 0; i < array.size(); ++i) {
    const size_t begin = builder.rows()[i];
    at_line += std::count(text.begin() + static_cast<long>(at), text.begin() + static_cast<long>(begin), '\n');
    at = begin;
    rows.push_back({std::move(array[i]), at_line});
  }
}

template <typename J>
std::optional<J> JsonlReader::Impl::next_line() {
  while (const auto line_text = lines->next()) {
    ++line;
    const std::string source = file.string();
    LIGER_CHECK(line_text->size() <= kMaxLine, source, ":", line,
                ": a line of more than 32 MiB; cut the row into several");
    if (is_blank(*line_text)) continue;
    const std::string_view row = line_text->ends_with('\r') ? line_text->substr(0, line_text->size() - 1) : *line_text;
    detail::JsonText json(row, source, static_cast<size_t>(line));
    detail::DomBuilder<J> builder(json);
    detail::run_strict_sax(json, builder);
    return builder.take();
  }
  return std::nullopt;
}

template <typename J>
std::optional<J> JsonlReader::Impl::next() {
  std::optional<J> row;
  if (lines) {
    row = next_line<J>();
  } else if (next_row < rows.size()) {
    Row& from = rows[next_row++];
    line = from.line;
    row = J(std::move(from.value));
  }
  LIGER_CHECK(!row || row->is_object(), file.string(), ":", line, ": expected an object, got ",
              row ? row->type_name() : "");
  return row;
}

JsonlReader::JsonlReader(const std::filesystem::path& file) : impl_(std::make_unique<Impl>()) {
  impl_->file = existing(file);
  if (detail::without_compression(file).extension() == ".json") {
    impl_->read_array();
  } else {
    impl_->lines.emplace(file);
  }
}

JsonlReader::JsonlReader(JsonlReader&&) noexcept = default;
JsonlReader& JsonlReader::operator=(JsonlReader&&) noexcept = default;
JsonlReader::~JsonlReader() = default;

std::optional<Json> JsonlReader::next() { return impl_->next<Json>(); }
std::optional<OrderedJson> JsonlReader::next_ordered() { return impl_->next<OrderedJson>(); }

int64_t JsonlReader::line() const { return impl_->line; }

std::string JsonlReader::where() const { return cat(impl_->file.string(), ":", impl_->line); }

std::string string_field(const Json& row, const std::string& key, const std::string& where) {
  const auto at = row.find(key);
  LIGER_CHECK(at != row.end(), where, ": the field '", detail::printable(key), "' is missing");
  LIGER_CHECK(at->is_string(), where, ": '", detail::printable(key), "': expected text, got ", at->type_name());
  return at->get<std::string>();
}

}  // namespace liger
