#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "io/added_tokens.h"

namespace liger::detail {

/// What the files beside a tokenizer say about it.
class TokenizerConfig {
 public:
  /// Reads tokenizer_config.json and special_tokens_map.json of the folder, if they are there.
  explicit TokenizerConfig(std::filesystem::path dir);

  using Find = std::function<std::optional<int64_t>(std::string_view)>;
  /// The id of "bos" or "eos": as the two files name it, else `from_tokenizer`, else what generation_config.json or
  /// config.json give. Throws Error(kBadInput) if a file names a token that `find` does not know.
  std::optional<int64_t> special_id(const std::string& name, const Find& find,
                                    std::optional<int64_t> from_tokenizer) const;

  /// "add_bos_token" and "add_eos_token", where they are given.
  std::optional<bool> add_bos, add_eos;
  /// chat_template.jinja, else "chat_template", of several the one named "default"; "" if there is none.
  std::string chat_template;
  /// "added_tokens_decoder", by id. Throws Error(kBadInput) if it is not valid.
  std::vector<AddedToken> added_tokens() const;

 private:
  void read_chat_template();
  std::filesystem::path dir_;
  Json config_, map_;  // objects, empty if the file is not there
};

}  // namespace liger::detail
