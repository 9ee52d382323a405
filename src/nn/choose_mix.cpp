#include "nn/choose_mix.h"

#include <mutex>
#include <set>

#include "liger/error.h"
#include "liger/io/log.h"
#include "nn/cuda_mix.h"
#include "nn/reference_mix.h"

namespace liger {
namespace {

std::string fused_refuses(const MixSettings& settings, const MixInputs& in, bool continues) {
  if (!in.is_compiled()) return "gates of another source than the key, and learned features, have no compiled code";
  if (in.rotation.cos.defined() && 2 * in.rotation.cos.size(-1) != in.q.size(-1))
    return "a RoPE that turns a part of each head has no compiled code";
  if (settings.softcap > 0) return "a softcap of attention's scores has no compiled code";
  if (in.q.is_cpu()) return "";
  if (!in.q.is_cuda()) return "there is compiled code for the CPU and CUDA only";
  return cuda_mix_refuses(settings, in, continues);
}

// Every layer of every step has the same to say.
void warn_once(const std::string& text) {
  static std::mutex mutex;
  static std::set<std::string> said;
  const std::lock_guard lock(mutex);
  if (said.insert(text).second) log_warning(text);
}

}  // namespace

bool runs_fused(Backend backend, const MixSettings& settings, const MixInputs& in, bool continues) {
  if (backend == Backend::kTorch) return false;
  const std::string reason = fused_refuses(settings, in, continues);
  if (reason.empty()) return true;
  const std::string what = cat("linearized layers on ", in.q.device().str(), ": ", reason);
  LIGER_CHECK_USAGE(backend == Backend::kAuto, "backend fused: ", what,
                    "; with backend auto LibTorch's operators run them");
  warn_once(what + "; LibTorch's operators run them, which is slower");
  return false;
}

MixOutputs run_mix(Backend backend, const MixSettings& settings, const MixInputs& in) {
  if (!runs_fused(backend, settings, in)) return reference_mix(settings, in, ScanMethod::kChunked);
  return in.q.is_cpu() ? fused_mix(settings, in) : cuda_mix(settings, in);
}

}  // namespace liger
