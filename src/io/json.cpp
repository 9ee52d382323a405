#include "liger/io/json.h"

#include "io/json_dom.h"
#include "liger/io/files.h"

namespace liger {
namespace {

template <typename J>
J parse(std::string_view text, const std::string& source) {
  detail::JsonText json(text, source);
  detail::DomBuilder<J> builder(json);
  detail::run_strict_sax(json, builder);
  return builder.take();
}

}  // namespace

Json parse_json(std::string_view text, const std::string& source) { return parse<Json>(text, source); }

OrderedJson parse_ordered_json(std::string_view text, const std::string& source) {
  return parse<OrderedJson>(text, source);
}

Json read_json(const std::filesystem::path& file, size_t max_bytes) {
  return parse_json(read_text(file, max_bytes), file.string());
}

OrderedJson read_ordered_json(const std::filesystem::path& file, size_t max_bytes) {
  return parse_ordered_json(read_text(file, max_bytes), file.string());
}

}  // namespace liger
