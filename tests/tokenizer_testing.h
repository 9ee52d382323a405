#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "io_test_util.h"
#include "liger/io/json.h"
#include "liger/io/tokenizer.h"

namespace liger::test {

inline std::filesystem::path tokenizer_data() { return std::filesystem::path(LIGER_TEST_DATA) / "tokenizers"; }

inline Json tokenizer_json(const std::string& base) { return read_json(tokenizer_data() / base / "tokenizer.json"); }

/// A folder with the files of tests/data/tokenizers/`base`.
class TokenizerFolder : public TempDir {
 public:
  explicit TokenizerFolder(const std::string& base) {
    for (const auto& entry : std::filesystem::directory_iterator(tokenizer_data() / base)) {
      put(*this / entry.path().filename().string(), get(entry.path()));
    }
  }
  void put_json(const std::string& name, const Json& json) const { put(*this / name, json.dump()); }
  std::shared_ptr<const Tokenizer> load() const { return Tokenizer::load(path()); }
};

/// The tokenizer of a base whose tokenizer.json is changed by a JSON merge patch (RFC 7386).
inline std::shared_ptr<const Tokenizer> load_patched(const std::string& base, const Json& patch) {
  TokenizerFolder folder(base);
  if (!patch.empty()) {
    Json json = tokenizer_json(base);
    json.merge_patch(patch);
    folder.put_json("tokenizer.json", json);
  }
  return folder.load();
}

inline std::string stream_decode(const Tokenizer& tokenizer, const std::vector<int64_t>& ids) {
  StreamDecoder stream(tokenizer);
  std::string text;
  for (const int64_t id : ids) text += stream.push(id);
  return text + stream.flush();
}

}  // namespace liger::test
