#include "fuzz_util.h"
#include "liger/io/jsonl.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static liger::fuzz::InputFile lines(".jsonl"), array(".json"), gzip(".jsonl.gz"), zstd(".jsonl.zst");
  for (liger::fuzz::InputFile* input : {&lines, &array, &gzip, &zstd}) {
    const auto& path = input->set(data, size);
    liger::fuzz::accept_or_refuse([&] {
      liger::JsonlReader reader(path);
      int64_t line = 0;
      while (const auto row = reader.next()) {
        liger::fuzz::require(row->is_object(), "a row is an object");
        const bool later = input != &array ? reader.line() > line : reader.line() >= line && reader.line() > 0;
        liger::fuzz::require(later, "lines go up");
        line = reader.line();
        liger::fuzz::accept_or_refuse([&] { liger::string_field(*row, "text", reader.where()); });
      }
    });
  }
  return 0;
}
