#include "model_arguments.h"

#include "liger/core/backend.h"
#include "liger/core/device.h"
#include "liger/core/download.h"
#include "liger/core/dtype.h"
#include "liger/core/hub.h"
#include "liger/error.h"
#include "liger/models/check_weights.h"

namespace liger::tool {

void add_download_option(CLI::App& app, bool& download) {
  app.add_flag("--download", download, "Fetch the model from the Hugging Face hub if it is not here")->option_text(" ");
}

std::filesystem::path model_folder(const std::string& name, bool download) {
  return download ? fetch_model(name) : resolve_model(name);
}

std::filesystem::path model_folder(const ModelArguments& a) {
  const std::filesystem::path dir = model_folder(a.model, a.download);
  if (!a.strict) return dir;
  const std::string unsound = unsound_weights(WeightFiles(dir));
  LIGER_CHECK(unsound.empty(), dir.string(), ": ", unsound, "; without --strict that is a warning");
  return dir;
}

void add_model_options(CLI::App& app, ModelArguments& a) {
  app.add_option("--model", a.model, "Folder or name of the model")->required()->option_text("NAME|DIR");
  add_download_option(app, a.download);
  app.add_flag("--strict", a.strict, "Refuse weights that hold nothing but NaN, or one value only");
  app.add_option("--adapter", a.adapter, "PEFT LoRA folder to add")->option_text("DIR");
  app.add_option("--dtype", a.dtype, "f32, bf16, f16 or f64; default as stored")->option_text("TYPE");
  app.add_option("--device", a.device, "cpu, cuda or cuda:N")->option_text("NAME (cpu)");
  app.add_option("--backend", a.backend, "Linearized layers: auto, fused (compiled code or an error) or torch")
      ->option_text("NAME (auto)");
}

LoadOptions load_options(const ModelArguments& a) {
  LoadOptions options;
  if (!a.dtype.empty()) options.dtype = scalar_type_from_string(a.dtype);
  options.device = device_from_string(a.device);
  options.backend = backend_from_string(a.backend);
  options.adapter = a.adapter;
  return options;
}

}  // namespace liger::tool
