#pragma once

#include <string>

#include "liger/train/trainer.h"

namespace liger {

/// README.md of a fine-tuned model: front matter as the Hugging Face hub reads it, what it was made from and how, and
/// what came out.
std::string model_card(const TrainingSetup& setup, const FinetuneResult& result);

}  // namespace liger
