#include "io/pretokenizer.h"

#include <algorithm>

#include "io/byte_level.h"
#include "io/json_fields.h"
#include "io/normalizer.h"
#include "io/text.h"
#include "io/utf8.h"
#include "liger/error.h"

namespace liger::detail {

PreTokenizer::PreTokenizer(const Json* json) {
  if (json != nullptr) read(*json, "pre_tokenizer");
}

void PreTokenizer::read(const Json& json, const std::string& where) {
  const std::string type = string_field(json, "type", where);
  if (type == "Sequence") {
    check_fields(json, where, {"type", "pretokenizers"});
    const Json& list = need_field(json, "pretokenizers", where);
    LIGER_CHECK(list.is_array(), where, ".pretokenizers: expected an array, got ", describe_type(list));
    for (size_t i = 0; i < list.size(); ++i) read(list[i], cat(where, ".pretokenizers[", i, "]"));
  } else if (type == "Split") {
    read_split(json, where);
  } else if (type == "ByteLevel") {
    read_byte_level(json, where);
  } else if (type == "Metaspace") {
    read_metaspace(json, where);
  } else {
    fail(ErrorCode::kBadInput, where, ": type '", printable(type),
         "' is not supported, only Sequence, Split, ByteLevel and Metaspace");
  }
}

void PreTokenizer::read_split(const Json& json, const std::string& where) {
  check_fields(json, where, {"type", "pattern", "behavior", "invert"});
  const Json& pattern = need_field(json, "pattern", where);
  const std::string behavior = string_field(json, "behavior", where);
  const bool invert = bool_field(json, "invert", where, false);
  if (pattern.is_object() && find_field(pattern, "Regex") != nullptr) {
    const std::string regex = string_field(pattern, "Regex", where + ".pattern");
    const auto known = find_split_pattern(regex);
    LIGER_CHECK(known, where, ": the regular expression '", printable(regex, 200),
                "' is not supported, only those of GPT-2, Llama 3 and Qwen 2");
    // These patterns match all of any text, so that what is between matches, which the modes differ in, is empty.
    LIGER_CHECK(behavior == "Isolated" || (behavior == "Removed" && invert), where, ": behavior '", printable(behavior),
                "' is not supported with a regular expression");
    steps_.emplace_back(Words{*known});
    return;
  }
  const bool behind = behavior == "MergedWithPrevious";
  LIGER_CHECK((behind || behavior == "MergedWithNext") && !invert, where, ": behavior '", printable(behavior),
              invert ? "' inverted" : "'", " is not supported with a string");
  steps_.emplace_back(Cut{string_pattern(pattern, where + ".pattern"), behind});
}

void PreTokenizer::read_byte_level(const Json& json, const std::string& where) {
  check_fields(json, where, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
  if (bool_field(json, "add_prefix_space", where, true)) steps_.emplace_back(PrefixSpace{});
  if (bool_field(json, "use_regex", where, true)) steps_.emplace_back(Words{SplitPattern::kGpt2});
  steps_.emplace_back(ByteAlphabet{});
}

void PreTokenizer::read_metaspace(const Json& json, const std::string& where) {
  check_fields(json, where, {"type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"});
  const std::string replacement = string_field(json, "replacement", where);
  LIGER_CHECK(!replacement.empty() && replacement.size() == utf8_length(replacement[0]), where,
              ": 'replacement': expected one character, got '", printable(replacement), "'");
  std::string scheme = string_field(json, "prepend_scheme", where, "always");
  if (!bool_field(json, "add_prefix_space", where, true)) {
    LIGER_CHECK(find_field(json, "prepend_scheme") == nullptr || scheme == "never", where,
                ": add_prefix_space and prepend_scheme '", printable(scheme), "' contradict each other");
    scheme = "never";
  }
  using Prepend = Metaspace::Prepend;
  LIGER_CHECK(scheme == "always" || scheme == "first" || scheme == "never", where, ": prepend_scheme '",
              printable(scheme), "' is not supported, only always, first and never");
  const auto prepend = scheme == "always" ? Prepend::kAlways : scheme == "first" ? Prepend::kFirst : Prepend::kNever;
  steps_.emplace_back(Metaspace{replacement, prepend});
  if (bool_field(json, "split", where, true)) steps_.emplace_back(Cut{replacement, false});
}

bool PreTokenizer::has_byte_level() const {
  return std::any_of(steps_.begin(), steps_.end(),
                     [](const Step& step) { return std::holds_alternative<ByteAlphabet>(step); });
}

bool PreTokenizer::looks_at_start() const {
  return std::any_of(steps_.begin(), steps_.end(), [](const Step& step) {
    const auto* metaspace = std::get_if<Metaspace>(&step);
    return metaspace != nullptr && metaspace->prepend == Metaspace::Prepend::kFirst;
  });
}

void PreTokenizer::split(std::string_view text, bool at_start, const Sink& word) const { run(0, text, at_start, word); }

void PreTokenizer::run(size_t index, std::string_view text, bool at_start, const Sink& word) const {
  if (text.empty()) return;
  if (index == steps_.size()) return word(text);
  const Step& step = steps_[index];
  const auto pass_on = [&](std::string_view part, bool first) { run(index + 1, part, first, word); };
  if (const auto* words = std::get_if<Words>(&step)) {
    for (size_t at = 0, end; at < text.size(); at = end) {
      end = word_end(words->pattern, text, at);
      pass_on(text.substr(at, end - at), at_start && at == 0);
    }
  } else if (const auto* cut = std::get_if<Cut>(&step)) {
    size_t start = 0;
    for (size_t at = 0; (at = text.find(cut->pattern, at)) != std::string_view::npos; at += cut->pattern.size()) {
      const size_t end = cut->behind ? at + cut->pattern.size() : at;
      pass_on(text.substr(start, end - start), at_start && start == 0);
      start = end;
    }
    pass_on(text.substr(start), at_start && start == 0);
  } else if (const auto* metaspace = std::get_if<Metaspace>(&step)) {
    std::string marked = replace_all(text, " ", metaspace->replacement);
    const bool prepend = metaspace->prepend == Metaspace::Prepend::kAlways ||
                         (metaspace->prepend == Metaspace::Prepend::kFirst && at_start);
    if (prepend && !marked.starts_with(metaspace->replacement)) marked.insert(0, metaspace->replacement);
    pass_on(marked, at_start);
  } else if (std::holds_alternative<PrefixSpace>(step)) {
    pass_on(text.starts_with(' ') ? std::string(text) : std::string(" ").append(text), at_start);
  } else {
    pass_on(bytes_to_chars(text), at_start);
  }
}

}  // namespace liger::detail
