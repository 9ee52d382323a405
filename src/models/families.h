#pragma once

#include "liger/models/family.h"

namespace liger {

// One file each; family.cpp lists them.
extern const Family kLlama;
extern const Family kMistral;
extern const Family kQwen2;
extern const Family kQwen3;
extern const Family kGemma;
extern const Family kGemma2;
extern const Family kGemma3;
extern const Family kGptNeoX;

}  // namespace liger
