#pragma once

#include <filesystem>

namespace liger {

class CausalLM;

/// Reads `input_ids` [B, T] int64 and, if there, `attention_mask` [B, T] (integer or bool, 0 = padding) from a
/// safetensors file and writes `logits` [B, T, V] in the model's dtype to another, zeros at padding. One row
/// is run and held at a time. Throws Error(kBadInput) naming what is wrong with the input; `output` is then not
/// touched.
void write_logits(CausalLM& model, const std::filesystem::path& input, const std::filesystem::path& output);

}  // namespace liger
