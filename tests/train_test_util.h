#pragma once

#include <ATen/Context.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "command.h"
#include "liger/io/files.h"
#include "liger/io/settings.h"
#include "liger/models/family.h"
#include "liger/nn/causal_lm.h"
#include "liger/train/dataset.h"
#include "liger/train/options.h"
#include "train/corpus_writer.h"

namespace liger::test {

/// tokenizer.json of a byte-level BPE without a merge: id = byte + 2; 0 is BOS, 1 is EOS.
inline void write_byte_tokenizer(const std::filesystem::path& dir) {
  OrderedJson vocab = {{"<s>", 0}, {"</s>", 1}};
  int next = 256;  // the bytes that are no visible character of Latin-1 stand from U+0100 on
  for (int byte = 0; byte < 256; ++byte) {
    const bool visible = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    const int code = visible ? byte : next++;
    std::string utf8;
    if (code < 0x80) {
      utf8 = static_cast<char>(code);
    } else {
      utf8 = {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
    }
    vocab[utf8] = byte + 2;
  }
  const auto special = [](int id, const char* text) {
    return OrderedJson{{"id", id},        {"content", text},     {"single_word", false}, {"lstrip", false},
                       {"rstrip", false}, {"normalized", false}, {"special", true}};
  };
  const char* const pattern =
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
      "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+"
      "|\\s+(?!\\S)|\\s+";
  const OrderedJson byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  OrderedJson json;
  json["version"] = "1.0";
  json["truncation"] = json["padding"] = nullptr;
  json["added_tokens"] = {special(0, "<s>"), special(1, "</s>")};
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       OrderedJson::array(
           {{{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}},
            byte_level})}};
  json["post_processor"] = nullptr;
  json["decoder"] = byte_level;
  json["model"] = {
      {"type", "BPE"},          {"dropout", nullptr},     {"unk_token", nullptr}, {"fuse_unk", false},
      {"byte_fallback", false}, {"ignore_merges", false}, {"vocab", vocab},       {"merges", OrderedJson::array()}};
  json["model"]["continuing_subword_prefix"] = json["model"]["end_of_word_suffix"] = nullptr;
  write_text_atomic(dir / "tokenizer.json", json.dump());
  write_text_atomic(dir / "tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": "</s>"})");
}

/// Two layers of 32 with two heads of 16 over one key/value head.
inline ModelConfig tiny_config(bool liger) {
  ModelConfig c;
  c.family = find_family("llama");
  c.vocab_size = 258;
  c.hidden_size = 32;
  c.intermediate_size = 48;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 2;
  c.num_key_value_heads = 1;
  c.head_dim = 16;
  c.max_position_embeddings = 256;
  c.initializer_range = 0.1;
  c.hidden_act = "silu";
  c.bos_token_id = 0;
  c.eos_token_ids = {1};
  c.stored_dtype = "float32";
  if (liger) c.liger = LigerConfig{.window = 8};
  return c;
}

/// A whole model folder with random weights and the byte tokenizer.
inline void write_tiny_model(const std::filesystem::path& dir, bool liger = true, at::ScalarType dtype = at::kFloat) {
  std::filesystem::create_directories(dir);
  ModelConfig config = tiny_config(liger);
  if (dtype == at::kBFloat16) config.stored_dtype = "bfloat16";
  at::manual_seed(7);
  CausalLM(config).save_weights(dir / "model.safetensors", dtype);
  write_text_atomic(dir / "config.json", config.to_json().dump(2));
  write_byte_tokenizer(dir);
}

/// `count` {"text": ...} rows of different lengths.
inline void write_text_rows(const std::filesystem::path& file, int count) {
  const char* const who[] = {"ann", "bob", "cy", "dora", "ed"};
  std::string rows;
  for (int i = 0; i < count; ++i) {
    std::string text = cat(who[i % 5], " has ", i % 7, " red balls");
    for (int j = 0; j < i % 4; ++j) text += cat(" and ", who[(i + j) % 5], " sees them");
    rows += OrderedJson{{"text", text}}.dump() + "\n";
  }
  write_text_atomic(file, rows);
}

/// The rows of `file` as tokens, which are written beside it.
inline std::shared_ptr<const Corpus> make_corpus(const std::filesystem::path& file, const DataOptions& options,
                                                 const Tokenizer& tokenizer, int64_t vocab_size) {
  const std::filesystem::path folder = file.string() + ".tokens";
  std::filesystem::create_directories(folder);
  write_corpus(folder, file, RowFormat(options, tokenizer), tokenizer, vocab_size);
  return std::make_shared<const Corpus>(folder, file);
}

/// A run over DIR/model and DIR/rows.jsonl that takes a second.
inline std::string tiny_run(const std::filesystem::path& dir, const std::string& run = "run") {
  return cat("model: {path: ", (dir / "model").string(), "}\n",
             "lora: {r: 4, alpha: 8, targets: [q_proj, k_proj, v_proj]}\n",
             "data: {train: ", (dir / "rows.jsonl").string(),
             ", val_size: 4, format: text, max_length: 64, "
             "over_length: split}\n",
             "train: {epochs: 100, max_steps: 8, batch_size: 4, micro_batch_size: 2, lr: 1e-2, scheduler: cosine, "
             "eval_every: 3}\n",
             "save: {dir: ", (dir / run).string(), ", every: 3}\n");
}

inline FinetuneOptions read_options(const std::string& yaml, const std::vector<std::string>& assignments = {}) {
  Settings settings = Settings::from_yaml(yaml, "test.yaml");
  for (const std::string& assignment : assignments) settings.override_with(assignment);
  return read_finetune_options(settings);
}

inline std::string slurp(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace liger::test
