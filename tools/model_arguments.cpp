#include "model_arguments.h"

#include "liger/core/backend.h"
#include "liger/core/device.h"
#include "liger/core/dtype.h"

namespace liger::tool {

void add_model_options(CLI::App& app, ModelArguments& a) {
  app.add_option("--model", a.model, "Folder or name of the model")->required()->option_text("NAME|DIR");
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
