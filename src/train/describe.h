#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "liger/train/trainer.h"

namespace liger {

/// What is about to be trained, on what and how long; a line each.
std::vector<std::string> describe(const TrainingSetup& setup);

/// Places of the rows that samples are made of: "alpaca.jsonl:3, alpaca.jsonl:17 and 12 more".
std::string describe_rows(const Dataset& data, std::span<const int64_t> samples);

}  // namespace liger
