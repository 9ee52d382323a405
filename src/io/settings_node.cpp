#include "io/settings_node.h"

#include "io/text.h"
#include "liger/error.h"

namespace liger::detail {

void SettingsNode::set(std::string key, Ptr value, std::shared_ptr<const SettingsSource> key_source,
                       size_t key_offset) {
  const auto [at, fresh] = index.try_emplace(key, members.size());
  if (fresh) members.emplace_back();
  members[at->second] = {std::move(key), std::move(value), std::move(key_source), key_offset};
}

std::string place_in(const SettingsSource& source, size_t offset) {
  if (source.text.empty()) return source.name;
  const Place place = place_of(source.text, offset);
  return cat(source.name, ":", place.line, ":", place.column);
}

std::string describe(const SettingsNode& node) {
  if (node.kind == SettingsNode::Kind::kMap) return "a mapping";
  if (node.kind == SettingsNode::Kind::kList) return "a list";
  if (node.scalar.is_null()) return "nothing";
  if (node.scalar.is_string()) return "text '" + printable(node.scalar.get_ref<const std::string&>(), 40) + "'";
  return (node.scalar.is_boolean() ? "" : "the number ") + node.scalar.dump();
}

}  // namespace liger::detail
