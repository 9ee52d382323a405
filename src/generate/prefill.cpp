#include "generate/prefill.h"

#include <algorithm>

#include "liger/core/sequences.h"
#include "liger/io/interrupt.h"
#include "liger/nn/causal_lm.h"

namespace liger {

at::Tensor prefill(CausalLM& model, std::span<const int64_t> ids, int64_t chunk, DecodingState& state) {
  at::Tensor hidden;
  for (size_t begin = 0; begin < ids.size();) {
    throw_if_interrupted();
    const auto piece = ids.subspan(begin, std::min(ids.size() - begin, static_cast<size_t>(chunk)));
    hidden = model.hidden_states(Sequences({{piece.begin(), piece.end()}}, model.device()), &state);
    begin += piece.size();
  }
  return model.logits(hidden.narrow(0, hidden.size(0) - 1, 1));
}

}  // namespace liger
