#include "liger/io/json.h"

#include "io/json_dom.h"
#include "liger/io/files.h"

namespace liger {
namespace {

template <typename J>
J parse(std::string_view text, const std::string& source, LongIntegers long_integers) {
  detail::JsonText json(text, source);
  detail::DomBuilder<J> builder(json, long_integers);
  detail::run_strict_sax(json, builder);
  return builder.take();
}

}  // namespace

Json parse_json(std::string_view text, const std::string& source, LongIntegers long_integers) {
  return parse<Json>(text, source, long_integers);
}

OrderedJson parse_ordered_json(std::string_view text, const std::string& source) {
  return parse<OrderedJson>(text, source, LongIntegers::kRefuse);
}

Json read_json(const std::filesystem::path& file, size_t max_bytes, LongIntegers long_integers) {
  return parse_json(read_text(file, max_bytes), file.string(), long_integers);
}

OrderedJson read_ordered_json(const std::filesystem::path& file, size_t max_bytes) {
  return parse_ordered_json(read_text(file, max_bytes), file.string());
}

}  // namespace liger
