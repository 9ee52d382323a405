#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace liger {

/// What text that spells a special token ("<|eot_id|>", "</s>") becomes.
enum class Specials {
  kLiteral,  ///< ordinary text: for data and anything a stranger wrote
  kParse     ///< the token itself, as the Hugging Face tokenizers do
};

/// Text to ids and back, equal to the reference libraries (sentencepiece, tokenizers). Thread-safe once loaded.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// The tokenizer of a Hugging Face folder: tokenizer.json if there, else tokenizer.model; which tokens are BOS
  /// and EOS comes from tokenizer_config.json, then from the file itself.
  /// Throws Error(kBadInput) naming the file and the part that is not supported or not valid.
  static std::shared_ptr<const Tokenizer> load(const std::filesystem::path& dir);

  /// Ids of `text` (UTF-8; invalid bytes are read as U+FFFD), without BOS or EOS.
  virtual std::vector<int64_t> encode(std::string_view text, Specials specials = Specials::kLiteral) const = 0;
  /// The same with what the tokenizer adds by itself (BOS for Llama and Gemma; template of tokenizer.json).
  virtual std::vector<int64_t> encode_with_specials(std::string_view text,
                                                    Specials specials = Specials::kLiteral) const = 0;
  /// Text of `ids`; control tokens are left out unless `keep_specials`. Throws Error on an id outside the vocabulary.
  virtual std::string decode(std::span<const int64_t> ids, bool keep_specials = false) const = 0;

  virtual int64_t vocab_size() const = 0;           ///< largest id + 1
  virtual std::string token(int64_t id) const = 0;  ///< the piece as stored
  virtual std::optional<int64_t> id_of(std::string_view token) const = 0;
  virtual bool is_special(int64_t id) const = 0;
  /// True if the text of `id` is not certain before the next id is known, or is left out by decode().
  virtual bool waits_for_next(int64_t id) const { return is_special(id); }
  virtual std::optional<int64_t> bos() const = 0;
  virtual std::optional<int64_t> eos() const = 0;
  /// The Jinja template for conversations that the model came with, as text; "" if it has none.
  virtual std::string chat_template() const { return {}; }
};

/// What a text begins with: BOS, or EOS for a tokenizer without; nothing if it has neither.
std::optional<int64_t> first_token(const Tokenizer& tokenizer);

/// Ids of a whole text in which special tokens count: encode_with_specials, but a text that spells the first token
/// itself ("<s>Once", a chat template) gets no second one.
std::vector<int64_t> encode_whole(const Tokenizer& tokenizer, std::string_view text);

/// Turns ids into text one at a time: push() returns the text that has become certain (never half a UTF-8
/// character); the pieces and flush() together equal decode() of all ids.
class StreamDecoder {
 public:
  /// Of a text that goes on after the ids `before`, whose own text is not returned: what an id looks like may depend on
  /// those in front of it (the first word of a sentencepiece text loses its space).
  explicit StreamDecoder(const Tokenizer& tokenizer, std::span<const int64_t> before = {});
  std::string push(int64_t id);
  std::string flush();

 private:
  void forget(size_t open);

  const Tokenizer& tokenizer_;
  std::vector<int64_t> ids_;  // the last ones; those before cannot change the text any more
  size_t shown_ = 0;          // bytes of decode(ids_) already returned
};

}  // namespace liger
