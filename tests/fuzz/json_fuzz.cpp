#include "fuzz_util.h"
#include "liger/io/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using liger::fuzz::require;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  bool accepted = false;
  liger::fuzz::accept_or_refuse([&] {
    const liger::Json json = liger::parse_json(text, "input");
    accepted = true;
    require(liger::Json::accept(text), "strict accepts no more than nlohmann");
    require(liger::parse_json(json.dump(), "dump") == json, "a document survives a round trip");
  });
  bool accepted_ordered = false;
  liger::fuzz::accept_or_refuse([&] {
    const liger::OrderedJson json = liger::parse_ordered_json(text, "input");
    accepted_ordered = true;
    require(liger::parse_ordered_json(json.dump(), "dump").dump() == json.dump(), "an ordered one too");
  });
  require(accepted == accepted_ordered, "both readers agree");
  return 0;
}
