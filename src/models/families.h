#pragma once

#include "liger/models/family.h"

namespace liger {

// One file each; family.cpp lists them.
extern const Family kLlama;
extern const Family kGemma;
extern const Family kGptNeoX;

}  // namespace liger
