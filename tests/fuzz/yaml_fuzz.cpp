#include "fuzz_util.h"
#include "liger/io/settings.h"

namespace {

using liger::Json;
using liger::Settings;

/// Asks for everything, each value as every type.
void read_all(const Settings& settings, const Json& object) {
  for (const auto& [key, value] : object.items()) {
    const auto try_get = [&](auto out) { liger::fuzz::accept_or_refuse([&] { settings.get(key, out); }); };
    try_get(false);
    try_get(int64_t{});
    try_get(0.0);
    try_get(std::string());
    try_get(std::vector<std::string>());
    try_get(std::vector<int64_t>());
    try_get(std::optional<double>());
    if (value.is_object()) read_all(settings.section(key), value);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  liger::fuzz::accept_or_refuse([&] {
    Settings settings = Settings::from_yaml(text, "input");
    const Json json = settings.to_json();
    json.dump();  // throws if any text is not UTF-8
    liger::fuzz::accept_or_refuse([&] { settings.reject_unknown(); });
    read_all(settings, json);
    settings.reject_unknown();
  });
  liger::fuzz::accept_or_refuse([&] {
    Settings settings = Settings::from_yaml("a: {b: 1}\nc: [1]\n", "base");
    settings.override_with(std::string(text));
    settings.to_json().dump();
  });
  return 0;
}
