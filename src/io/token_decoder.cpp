#include "io/token_decoder.h"

#include <algorithm>
#include <numeric>

#include "io/byte_level.h"
#include "io/json_fields.h"
#include "io/normalizer.h"
#include "io/text.h"
#include "io/utf8.h"
#include "liger/error.h"

namespace liger::detail {
namespace {

std::string join(const std::vector<std::string>& pieces) {
  return std::accumulate(pieces.begin(), pieces.end(), std::string());
}

std::string one_char_field(const Json& json, const char* key, const std::string& where) {
  std::string text = string_field(json, key, where);
  LIGER_CHECK(!text.empty() && text.size() == utf8_length(text[0]), where, ": '", key,
              "': expected one character, got '", printable(text), "'");
  return text;
}

uint64_t count_field(const Json& json, const char* key, const std::string& where) {
  const Json& value = need_field(json, key, where);
  LIGER_CHECK(value.is_number_unsigned(), where, ": '", key, "': expected a count, got ", describe_type(value));
  return value.get<uint64_t>();
}

}  // namespace

int byte_of_piece(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
  };
  const int high = digit(piece[3]), low = digit(piece[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

TokenDecoder::TokenDecoder(const Json* json) {
  LIGER_CHECK(json != nullptr, "decoder: none given, which is not supported");
  read(*json, "decoder");
}

void TokenDecoder::read(const Json& json, const std::string& where) {
  const std::string type = string_field(json, "type", where);
  // Once the pieces are one text, only what looks at its start or at single characters can be streamed.
  const bool joined = std::any_of(steps_.begin(), steps_.end(), [](const auto& step) {
    return std::holds_alternative<Fuse>(step) || std::holds_alternative<ByteLevel>(step);
  });
  LIGER_CHECK(!joined || type == "Strip" || type == "Fuse" || type == "Replace", where, ": type '", printable(type),
              "' is not supported after the pieces have been joined");
  if (type == "Sequence") {
    check_fields(json, where, {"type", "decoders"});
    const Json& list = need_field(json, "decoders", where);
    LIGER_CHECK(list.is_array(), where, ".decoders: expected an array, got ", describe_type(list));
    for (size_t i = 0; i < list.size(); ++i) read(list[i], cat(where, ".decoders[", i, "]"));
  } else if (type == "ByteLevel") {
    check_fields(json, where, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
    steps_.emplace_back(ByteLevel{});
  } else if (type == "ByteFallback") {
    check_fields(json, where, {"type"});
    steps_.emplace_back(ByteFallback{});
  } else if (type == "Fuse") {
    check_fields(json, where, {"type"});
    steps_.emplace_back(Fuse{});
  } else if (type == "Replace") {
    check_fields(json, where, {"type", "pattern", "content"});
    std::string from = string_pattern(need_field(json, "pattern", where), where + ".pattern");
    LIGER_CHECK(!joined || from.size() == utf8_length(from[0]), where, ": '", printable(from),
                "' is more than one character, which is not supported after the pieces have been joined");
    steps_.emplace_back(Replace{std::move(from), string_field(json, "content", where)});
  } else if (type == "Strip") {
    read_strip(json, where);
  } else if (type == "Metaspace") {
    read_metaspace(json, where);
  } else {
    fail(ErrorCode::kBadInput, where, ": type '", printable(type),
         "' is not supported, only Sequence, ByteLevel, ByteFallback, Fuse, Replace, Strip and Metaspace");
  }
}

void TokenDecoder::read_strip(const Json& json, const std::string& where) {
  check_fields(json, where, {"type", "content", "start", "stop"});
  LIGER_CHECK(count_field(json, "stop", where) == 0, where, ": 'stop' other than 0 is not supported");
  steps_.emplace_back(StripStart{one_char_field(json, "content", where), count_field(json, "start", where)});
}

void TokenDecoder::read_metaspace(const Json& json, const std::string& where) {
  check_fields(json, where, {"type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"});
  const bool never = string_field(json, "prepend_scheme", where, "always") == "never";
  const bool strip = bool_field(json, "add_prefix_space", where, true) && !never;
  steps_.emplace_back(Metaspace{one_char_field(json, "replacement", where), strip});
}

bool TokenDecoder::is_byte(std::string_view piece) const {
  return byte_of_piece(piece) >= 0 && std::any_of(steps_.begin(), steps_.end(), [](const auto& step) {
           return std::holds_alternative<ByteFallback>(step);
         });
}

std::string TokenDecoder::decode(Pieces pieces) const {
  for (const auto& step : steps_) std::visit([&](const auto& one) { apply(one, pieces); }, step);
  return join(pieces);
}

void TokenDecoder::apply(const ByteLevel&, Pieces& pieces) {
  std::string bytes;
  for (const std::string& piece : pieces) bytes += chars_to_bytes(piece);
  pieces.assign(1, to_valid_utf8(bytes));
}

/// A run of byte pieces is one text if it is valid UTF-8 as a whole; otherwise each byte of it is a U+FFFD.
void TokenDecoder::apply(const ByteFallback&, Pieces& pieces) {
  Pieces out;
  std::string run;
  const auto end_run = [&] {
    if (find_invalid_utf8(run) == std::string_view::npos) {
      if (!run.empty()) out.push_back(run);
    } else {
      out.insert(out.end(), run.size(), std::string(kReplacementUtf8));
    }
    run.clear();
  };
  for (std::string& piece : pieces) {
    if (const int byte = byte_of_piece(piece); byte >= 0) {
      run += static_cast<char>(byte);
    } else {
      end_run();
      out.push_back(std::move(piece));
    }
  }
  end_run();
  pieces = std::move(out);
}

void TokenDecoder::apply(const Fuse&, Pieces& pieces) { pieces.assign(1, join(pieces)); }

void TokenDecoder::apply(const Replace& step, Pieces& pieces) {
  for (std::string& piece : pieces) piece = replace_all(piece, step.from, step.to);
}

void TokenDecoder::apply(const StripStart& step, Pieces& pieces) {
  for (std::string& piece : pieces) {
    size_t cut = 0;
    for (uint64_t i = 0; i < step.count && std::string_view(piece).substr(cut).starts_with(step.content); ++i) {
      cut += step.content.size();
    }
    piece.erase(0, cut);
  }
}

void TokenDecoder::apply(const Metaspace& step, Pieces& pieces) {
  for (size_t i = 0; i < pieces.size(); ++i) {
    pieces[i] = replace_all(pieces[i], step.replacement, i == 0 && step.strip_first ? "" : " ");
  }
}

}  // namespace liger::detail
