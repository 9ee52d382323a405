// liger-convert: turns a pretrained Transformer's attention into gated linear recurrence, and back; ties its layers
// into recursive blocks, and unties them; merges adapters.

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>

#include "liger/convert/calibration_text.h"
#include "liger/convert/convert.h"
#include "liger/error.h"
#include "liger/io/log.h"
#include "liger/io/process.h"
#include "liger/io/tokenizer.h"
#include "liger/models/structure.h"
#include "liger/nn/calibrate.h"
#include "liger/nn/causal_lm.h"
#include "model_arguments.h"
#include "tie_arguments.h"
#include "tool.h"

namespace {

using namespace liger;

struct Options {
  tool::CommonOptions common;
  ConvertOptions convert;
  std::string model, dtype, softmax_layers;
  std::string probe =
      "The river runs past the old mill, and in 1897 its keeper counted 12 boats a day, most of them "
      "loaded with grain; today there are none.";
  uint64_t shard_size = 0;
  int64_t keep_softmax = 0;
  bool dry_run = false, download = false;
  std::vector<std::string> features;
  std::string normalizer, state, gate;
  CalibrationText calibrate;
  CalibrationOptions calibration;
  tool::TieArguments tie;
};

std::string human_bytes(uint64_t bytes) {
  const char* const units[] = {"B", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 999.5 && unit + 1 < std::size(units); ++unit) value /= 1000;
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 || value >= 99.5 ? "%.0f %s" : "%.1f %s", value, units[unit]);
  return text;
}

// A decimal number as one writes it: the parser would take 010 for 8, and a negative size for a huge one.
bool parse_whole(std::string_view text, int64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && text == std::to_string(value);
}

CLI::Validator whole_number(int64_t min) {
  const auto check = [min](const std::string& text) {
    int64_t value = 0;
    const bool holds = parse_whole(text, value) && value >= min;
    return holds ? "" : cat("expected a whole number, ", min, " or more, got '", text, "'");
  };
  return {check, ""};
}

CLI::Validator size() {
  const auto check = [](const std::string& text) {
    int64_t number = 0;
    const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
    const bool plain = parse_whole(std::string_view(text).substr(0, digits), number) && number > 0;
    return plain ? "" : cat("expected a size such as 5GB, got '", text, "'");
  };
  return {check, ""};
}

// As an --arch: attention stays what it is, and layers are tied.
constexpr const char* kRecursive = "recursive";

CLI::Validator architecture() {
  const auto check = [](const std::string& text) {
    const bool known = text == "softmax" || text == kRecursive || find_structure(text) != nullptr;
    return known ? "" : cat(unknown_structure(text), ", softmax, ", kRecursive);
  };
  return {check, ""};
}

// Calls visit(kind, structures of that kind) in the table's order.
template <typename Visit>
void for_each_kind(const Visit& visit) {
  const auto& all = structures();
  for (auto first = all.begin(); first != all.end();) {
    const auto last =
        std::find_if(first, all.end(), [&](const Structure& s) { return std::string(s.kind) != first->kind; });
    visit(first->kind, std::vector<Structure>(first, last));
    first = last;
  }
}

std::string architecture_names() {
  std::string text = "Structures; --help-all says what each is:\n";
  for_each_kind([&](const std::string& kind, const std::vector<Structure>& members) {
    std::string names;
    for (const Structure& s : members) names += cat(names.empty() ? "" : ", ", s.name);
    text += cat("  ", kind, ": ", names, "\n");
  });
  return text;
}

std::string architecture_descriptions() {
  std::string text = "--arch, by what the state of the recurrence does:\n";
  const auto line = [&](const std::string& name, const std::string& what) {
    constexpr size_t kWidth = 18;
    text += "    " + name + std::string(kWidth - std::min(name.size(), kWidth), ' ') + what + "\n";
  };
  for_each_kind([&](const std::string& kind, const std::vector<Structure>& members) {
    text += cat("  ", kind, "\n");
    for (const Structure& s : members) line(s.name, s.summary);
  });
  text += "  the way back\n";
  line("softmax", "softmax attention over the whole text, as the base model has it");
  text += "  layers\n";
  line(kRecursive, "tied by --loops, attention as it is; every structure above can be tied as well");
  return text + "\nThe published Liger code opens gla, hgrn2 and gsa; the others are run by liger alone.\n";
}

// --help keeps to a screen; --help-all adds what each structure is, and the options of this group.
constexpr const char* kDetails = "Details of files, of the mixer and of its calibration";
class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const override {
    all_ = mode == CLI::AppFormatMode::All;
    std::string text = CLI::Formatter::make_help(app, std::move(name), mode);
    for (size_t at = text.find("\n\n\n"); at != std::string::npos; at = text.find("\n\n\n", at)) text.erase(at, 1);
    return all_ ? text + "\n" + architecture_descriptions() : text;
  }
  std::string make_group(std::string group, bool is_positional,
                         std::vector<const CLI::Option*> options) const override {
    return all_ || !group.starts_with("Details") ? CLI::Formatter::make_group(group, is_positional, options) : "";
  }

 private:
  mutable bool all_ = false;
};

constexpr const char* kLigerOptions = "Liger attention (stored in config.json)";

void add_liger_options(CLI::App& app, Options& o) {
  const char* const group = kLigerOptions;
  LigerConfig& liger = o.convert.liger;
  const auto setting = [&](const char* name, auto& value, const char* text) {
    return app.add_option(name, value, text)->group(group)->capture_default_str();
  };
  setting("--window", liger.window, "Keys a query sees in the softmax branch, itself included; 0 = no such branch")
      ->check(whole_number(0));
  setting("--sinks", liger.sinks, "First tokens of the text that every query sees as well")->check(whole_number(0));
  setting("--mix", liger.mix, "Share of the softmax branch in the output, 0 to 1");
  setting("--gate-divisor", liger.gate_divisor, "log-decay = logsigmoid(k) / this; for structures that have one");
  const auto choice = [&](const char* name, auto& value, const char* text, std::vector<std::string> names) {
    return app.add_option(name, value, text)
        ->group(kDetails)
        ->check(CLI::IsMember(std::move(names)))
        ->option_text("NAME");
  };
  choice(
      "--features", o.features,
      "Of queries and keys: identity, softmax, softmax-pair (of x and -x), exp-pair; of several, as A,B, --calibrate "
      "gives each layer those that explain most of its attention",
      {"identity", "softmax", "softmax-pair", "exp-pair"})
      ->delimiter(',')
      ->allow_extra_args(false);
  app.add_flag("--rope-features,!--no-rope-features", liger.rope_features, "Features of rotated queries and keys")
      ->group(kDetails);
  choice("--normalizer", o.normalizer, "Of the recurrence: none, own, or shared: one softmax with the window",
         {"none", "own", "shared"});
  choice("--state", o.state, "What it holds: all, or beyond-window: what the window no longer does",
         {"all", "beyond-window"});
  choice("--gate", o.gate, "What decays are read from: key; for comparison query, value, or random: a new projection",
         {"key", "query", "value", "random"});
  app.add_flag("--learned-features", liger.learned_features, "For comparison: features after a new matrix of each head")
      ->group(kDetails);
  auto* keep = app.add_option("--keep-softmax", o.keep_softmax, "One softmax layer after every N Liger layers");
  keep->group(group)->check(whole_number(1))->option_text("N");
  app.add_option("--softmax-layers", o.softmax_layers,
                 "In place of --keep-softmax: these layers stay softmax, as 3,7,11, counted from 0")
      ->group(kDetails)
      ->option_text("I,J,...")
      ->excludes(keep);
}

void add_calibration_options(CLI::App& app, Options& o) {
  app.add_option("--calibrate", o.calibrate.file,
                 "Fit the recommended mixer's numbers of heads to the attention replaced, on this text")
      ->group(kLigerOptions)
      ->option_text("FILE");
  const auto number = [&](const char* name, int64_t& value, const char* text, int64_t least) {
    app.add_option(name, value, text)->group(kDetails)->check(whole_number(least))->capture_default_str();
  };
  number("--calibrate-tokens", o.calibrate.tokens, "Tokens of it to read", 2);
  number("--calibrate-length", o.calibrate.length, "Tokens of a chunk", 2);
  number("--calibrate-steps", o.calibration.steps, "Updates of a layer after the search; 0 = the search alone", 0);
}

void add_options(CLI::App& app, Options& o) {
  app.add_option("--model", o.model, "A Hugging Face folder, \"org/name\", or llama3-8b, gemma-2b, tinyllama ...")
      ->required()
      ->option_text("NAME|DIR");
  tool::add_download_option(app, o.download);
  CLI::Option* arch = app.add_option("--arch", o.convert.arch,
                                     "Structure to linearize with, such as gla; softmax turns back; recursive");
  arch->check(architecture())->option_text("ARCH");
  CLI::Option* merge = app.add_option("--merge", o.convert.merge, "Or: a PEFT LoRA folder to add to the weights");
  merge->option_text("DIR")->excludes(arch);
  CLI::Option* untie =
      app.add_flag("--untie", o.convert.untie, "Or: give tied layers weights of their own, adapter and all");
  untie->excludes(arch)->option_text(" ");
  app.add_option("--probe", o.probe, "Text to compare logits on after tying or merging; '' = none")
      ->option_text("TEXT");
  app.add_option("--out", o.convert.out, "New folder; by default ./<model's name>-liger-<arch>")->option_text("DIR");
  app.add_flag("--overwrite", o.convert.overwrite, "Replace an output that liger wrote earlier");
  app.add_flag("--dry-run", o.dry_run, "Check everything, print what would be done, write nothing");
  app.add_option("--dtype", o.dtype, "Convert the weights: bf16, f16 or f32. Without: they are linked, not copied")
      ->check(CLI::IsMember({"bf16", "f16", "f32"}))
      ->option_text("TYPE");
  app.add_option("--shard-size", o.shard_size, "Divide the weights into files of at most this size; 5GB with --dtype")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->transform(size())  // what is added last is applied first
      ->group(kDetails)
      ->option_text("SIZE");
  o.tie.add_to(app);
  add_liger_options(app, o);
  add_calibration_options(app, o);
  app.set_help_all_flag("--help-all", "Also say what each structure is, and all options of mixers and tied layers");
  app.formatter(std::make_shared<HelpFormatter>());
  app.footer(
      architecture_names() +
      "The window counts 65 keys, as the released checkpoints do; the paper's Eq. 10 says 64; -H: --keep-softmax 7.\n"
      "Example: liger-convert --model llama3-8b --download --arch gla --dry-run");
}

std::vector<int64_t> parse_layers(const std::string& text) {
  std::vector<int64_t> layers;
  for (size_t begin = 0, comma = 0; comma != std::string::npos; begin = comma + 1) {
    comma = text.find(',', begin);
    int64_t layer = 0;
    LIGER_CHECK_USAGE(parse_whole(std::string_view(text).substr(begin, comma - begin), layer) && layer >= 0,
                      "--softmax-layers: expected layers counted from 0, as 3,7,11, got '", text, "'");
    layers.push_back(layer);
  }
  return layers;
}

void refuse_with_calibrate(const CLI::App& app, const Options& o) {
  LIGER_CHECK_USAGE(app.count("--mix") == 0, "--mix has no meaning with --calibrate, which finds shares for each head");
  LIGER_CHECK_USAGE(o.convert.arch != kWindowOnly && o.convert.liger.window > 0,
                    "--calibrate: expected a recurrence and a window, whose shares are to be found");
  LIGER_CHECK_USAGE((o.gate.empty() || o.gate == "key") && !o.convert.liger.learned_features,
                    "--calibrate: expected the key's gate and no learned features");
}

// What calibration takes where nothing else is said: the recommended mixer, as far as the structure has room for it.
void recommend(const CLI::App& app, Options& o) {
  LigerConfig& liger = o.convert.liger;
  const Structure& structure = *find_structure(o.convert.arch);
  const auto suits = [&](FeatureMap map) { return refuses_choices(structure, map, Normalizer::kShared).empty(); };
  if (app.count("--features") == 0 && app.count("--normalizer") == 0 && suits(FeatureMap::kExpPair))
    liger.features = FeatureMap::kExpPair;
  const std::vector<FeatureMap> one = {liger.features.value_or(structure.key)};
  const std::vector<FeatureMap>& maps = o.calibration.features.empty() ? one : o.calibration.features;
  if (app.count("--normalizer") == 0 && std::all_of(maps.begin(), maps.end(), suits))
    liger.normalizer = Normalizer::kShared;
  if (app.count("--rope-features") == 0) liger.rope_features = !structure.slots;
  if (app.count("--state") == 0) liger.beyond_window = true;
  if (app.count("--sinks") == 0) liger.sinks = 8;
}

// What was said and would have no effect.
void check_liger_options(const CLI::App& app, const Options& o) {
  const std::string& arch = o.convert.arch;
  const auto refuse = [&](const char* name, const std::string& why) {
    LIGER_CHECK_USAGE(app.count(name) == 0, name, " has no meaning with ",
                      o.convert.untie ? "--untie"
                      : arch.empty()  ? app.count("--merge") > 0 ? "--merge" : cat("--arch ", kRecursive)
                                      : cat("--arch ", arch),
                      why);
  };
  if (arch.empty() || arch == "softmax") {
    for (const char* name :
         {"--window", "--sinks", "--mix", "--gate-divisor", "--keep-softmax", "--softmax-layers", "--features",
          "--rope-features", "--normalizer", "--state", "--gate", "--learned-features", "--calibrate"}) {
      refuse(name, "");
    }
    return;
  }
  const Structure& structure = *find_structure(o.convert.arch);
  if (!structure.uses_divisor) refuse("--gate-divisor", cat(": ", structure.forgets));
  if (o.convert.arch == kWindowOnly) refuse("--mix", ": there is no recurrence to mix the window with");
  if (app.count("--calibrate") > 0) {
    refuse_with_calibrate(app, o);
    return;
  }
  for (const char* name : {"--calibrate-tokens", "--calibrate-length", "--calibrate-steps"}) {
    LIGER_CHECK_USAGE(app.count(name) == 0, name, " has no meaning without --calibrate");
  }
  LIGER_CHECK_USAGE(app.count("--mix") == 0 || o.convert.liger.window > 0,
                    "--mix has no meaning with --window 0: there is no softmax branch to mix the recurrence with");
}

void check_options(const CLI::App& app, Options& o) {
  LIGER_CHECK_USAGE(app.count("--arch") + (app.count("--merge") + app.count("--untie") > 0) == 1,
                    "--arch, --merge or --untie is required");
  const bool recursive = o.convert.arch == kRecursive;
  if (app.count("--arch") == 0 || recursive) o.convert.arch.clear();
  o.convert.tie = o.tie.options(app);
  LIGER_CHECK_USAGE(!recursive || o.convert.tie, "--arch recursive: how often layers run is missing; set --loops");
  LIGER_CHECK_USAGE(!o.convert.tie || app.count("--arch") > 0, "--loops: expected --arch recursive, or a structure");
  LIGER_CHECK_USAGE(!o.convert.tie || app.count("--calibrate") == 0,
                    "--calibrate finds numbers for layers as they are, not for tied ones; calibrate first, and tie the "
                    "linearized model with --arch recursive");
  LIGER_CHECK_USAGE(app.count("--probe") == 0 || o.convert.tie || o.convert.arch.empty(),
                    "--probe has no meaning with --arch ", o.convert.arch, ": nothing is tied or merged");
  LIGER_CHECK_USAGE(!o.tie.compares() || recursive,
                    "--compare-inits compares models whose attention stays what it is; use it with --arch recursive");
  LIGER_CHECK_USAGE(!o.tie.compares() || !o.probe.empty(),
                    "--compare-inits compares on the text of --probe, which is ''");
  check_liger_options(app, o);
  LigerConfig& liger = o.convert.liger;
  if (!o.features.empty()) liger.features = feature_map_from_name(o.features.front());
  if (o.features.size() > 1) {
    LIGER_CHECK_USAGE(app.count("--calibrate") > 0,
                      "--features: expected one name, as without --calibrate nothing "
                      "chooses among ",
                      o.features.size());
    for (const std::string& name : o.features) o.calibration.features.push_back(feature_map_from_name(name));
  }
  if (!o.normalizer.empty()) liger.normalizer = normalizer_from_name(o.normalizer);
  if (!o.gate.empty()) liger.gate = gate_source_from_name(o.gate);
  if (!o.state.empty()) liger.beyond_window = beyond_window_from_name(o.state);
  if (app.count("--calibrate") > 0) recommend(app, o);
  if (app.count("--softmax-layers") > 0) liger.softmax_layers = parse_layers(o.softmax_layers);
  if (app.count("--keep-softmax") > 0) o.convert.keep_softmax = o.keep_softmax;
  if (o.dtype == "f32") o.convert.dtype = Dtype::kF32;
  if (o.dtype == "f16") o.convert.dtype = Dtype::kF16;
  if (o.dtype == "bf16") o.convert.dtype = Dtype::kBF16;
  if (o.shard_size > 0) o.convert.shard_size = o.shard_size;
}

void print_plan(const ConvertPlan& plan) {
  std::cout << plan.options.model.string() << " -> " << plan.options.out.string() << " (nothing is written)\n";
  for (const PlannedFile& file : plan.files) {
    char line[64];
    std::snprintf(line, sizeof line, "  %-8s %9s  ", to_string(file.action), human_bytes(file.bytes).c_str());
    std::cout << line << file.name << "\n";
  }
  if (!plan.config_changes.empty()) std::cout << "config.json:\n";
  for (const std::string& change : plan.config_changes) std::cout << "  " << change << "\n";
  std::cout << "disk: " << human_bytes(plan.bytes_written) << " to write; memory: about "
            << human_bytes(plan.peak_memory_bytes) << "\n";
}

void print_result(const ConvertPlan& plan, const std::filesystem::path& out, double seconds) {
  uint64_t linked = 0, written = 0;
  for (const PlannedFile& file : plan.files) (file.action == FileAction::kLink ? linked : written) += file.bytes;
  char time[32];
  std::snprintf(time, sizeof time, "%.1f", seconds);
  std::cout << out.string() << ": " << human_bytes(linked) << " linked, " << human_bytes(written) << " written in "
            << time << " s\n";
  if (!plan.options.arch.empty() && plan.options.arch != "softmax") {
    const char* const recipe = plan.options.liger.heads.empty() ? "lora" : "recover";
    const bool has_adapter = plan.options.tie && plan.options.tie->rank > 0;
    std::cout << "next: liger-finetune configs/" << recipe << ".yaml --set model.path=" << plan.options.out.string()
              << (has_adapter ? " --set lora=null" : "") << "\n";
  }
}

OrderedJson to_json(const MergeProbe& probe) {
  return {{"tokens", probe.tokens},
          {"largest_change", probe.largest_change},
          {"largest_logit", probe.largest_logit},
          {"same_choice", probe.same_choice}};
}

void print_probe(const MergeProbe& probe) {
  std::cout << "probe of " << probe.tokens << " tokens: merging changed a logit by " << probe.largest_change
            << " at most (the largest is " << probe.largest_logit << "), and the likeliest token after "
            << probe.tokens - probe.same_choice << " of them\n";
}

// The numbers of heads, and what they are worth.
struct Calibrated {
  Calibration found;
  ModelGap teacher, window, before, after;
  double seconds = 0;
  int64_t peak_memory = 0;  // of the process, in bytes, once the numbers were found
};

Calibrated calibrate_heads(Options& o) {
  const auto start = std::chrono::steady_clock::now();
  const std::filesystem::path& model = o.convert.model;
  LIGER_CHECK(!ModelConfig::read(model).liger, model.string(), ": is linearized already; calibrate its base model");
  const std::vector<Sequences> text = read_calibration_text(o.calibrate, *Tokenizer::load(model));
  const auto load = [&](const std::optional<LigerConfig>& liger) {
    LoadOptions options;
    options.liger = liger;
    return CausalLM::load(model, options);
  };
  const auto teacher = load({});
  const LigerConfig wanted = liger_settings(o.convert, teacher->config());
  Calibrated out;
  Progress progress("calibrating", teacher->config().num_hidden_layers);
  o.calibration.progress = [&](int64_t layers) { progress.update(layers); };
  out.found = calibrate(*teacher, wanted, text, o.calibration);
  progress.finish();
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  out.peak_memory = peak_memory_bytes();
  LigerConfig window = wanted;
  window.recurrence = kWindowOnly;
  window.gate_divisor = LigerConfig().gate_divisor;
  window.features.reset();
  window.normalizer.reset();
  window.rope_features = window.beyond_window = false;
  out.teacher = compare(*teacher, *teacher, text);
  out.window = compare(*load(window), *teacher, text);
  out.before = compare(*load(wanted), *teacher, text);
  out.after = compare(*load(out.found.liger), *teacher, text);
  o.convert.liger.heads = out.found.liger.heads;
  o.convert.liger.features = out.found.liger.features;
  o.convert.liger.layer_features = out.found.liger.layer_features;
  return out;
}

// As config.json names them; empty = the structure's own.
std::string features_of(const Calibrated& c, int64_t layer) {
  const OrderedJson said = to_json(c.found.liger).value("features", OrderedJson(""));
  return (said.is_array() ? said[static_cast<size_t>(layer)] : said).get<std::string>();
}

OrderedJson to_json(const Calibrated& c) {
  const auto gap = [](const ModelGap& g) {
    return OrderedJson{{"loss", g.loss}, {"divergence", g.divergence}, {"largest_logit_change", g.largest}};
  };
  OrderedJson layers = OrderedJson::array();
  for (const LayerFit& fit : c.found.layers) {
    layers.push_back({{"layer", fit.layer},
                      {"window", fit.window},
                      {"before", fit.before},
                      {"after", fit.after},
                      {"features", features_of(c, fit.layer)}});
  }
  return {{"tokens", c.found.tokens}, {"seconds", c.seconds},      {"peak_memory_bytes", c.peak_memory},
          {"explained", layers},      {"teacher", gap(c.teacher)}, {"window", gap(c.window)},
          {"before", gap(c.before)},  {"after", gap(c.after)}};
}

void print_calibration(const Calibrated& c) {
  char line[128];
  const auto print = [&](const char* format, auto... values) {
    std::snprintf(line, sizeof line, format, values...);
    std::cout << line;
  };
  print("calibrated on %lld tokens in %.1f s, peak memory %s; share of the attention's output explained\n",
        static_cast<long long>(c.found.tokens), c.seconds, human_bytes(static_cast<uint64_t>(c.peak_memory)).c_str());
  print("  %-6s %12s %12s %12s\n", "layer", "window alone", "before", "after");
  for (const LayerFit& fit : c.found.layers)
    print("  %-6lld %12.4f %12.4f %12.4f  %s\n", static_cast<long long>(fit.layer), fit.window, fit.before, fit.after,
          features_of(c, fit.layer).c_str());
  print("  %-14s %8s %20s %16s\n", "", "loss", "KL from the teacher", "largest logit gap");
  const auto row = [&](const char* name, const ModelGap& g) {
    print("  %-14s %8.4f %20.4f %16.3f\n", name, g.loss, g.divergence, g.largest);
  };
  row("teacher", c.teacher);
  row("window alone", c.window);
  row("before", c.before);
  row("after", c.after);
}

void convert(Options& o) {
  o.convert.model = tool::model_folder(o.model, o.download);
  std::optional<Calibrated> calibrated;
  if (!o.calibrate.file.empty()) calibrated = calibrate_heads(o);
  const ConvertPlan plan = plan_conversion(o.convert);
  const bool probes = !merged_adapter(plan.options).empty() && !o.probe.empty() && !o.dry_run;
  const bool probes_any = probes || (plan.options.tie && !o.probe.empty() && !o.dry_run);
  if (probes_any)
    with_context("--probe (give '' for none)", [&] { Tokenizer::load(o.convert.model); });  // before the work
  for (const std::string& warning : plan.warnings) log_warning(warning);
  const auto start = std::chrono::steady_clock::now();
  const Converted done = o.dry_run ? Converted{plan.options.out, {}} : run_conversion(plan);
  const std::filesystem::path& out = done.folder;
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::optional<MergeProbe> probe;
  if (probes) probe = probe_merge(plan.options.model, merged_adapter(plan.options), out, o.probe);
  std::optional<tool::TieReport> tied;
  if (plan.options.tie && !o.dry_run) tied = tool::report_tie(plan.options, out, done.kept, o.probe, o.tie.compares());
  if (calibrated && !o.common.json) print_calibration(*calibrated);
  if (o.common.json) {
    OrderedJson document = liger::to_json(plan);
    if (probe) document["probe"] = to_json(*probe);
    if (tied) document["tied"] = tool::to_json(*tied);
    if (calibrated) document["calibration"] = to_json(*calibrated);
    document["out"] = out.string();
    document["dry_run"] = o.dry_run;
    if (!o.dry_run) document["seconds"] = seconds;
    tool::print_json(document);
  } else if (o.dry_run) {
    print_plan(plan);
  } else {
    print_result(plan, out, seconds);
    if (tied) tool::print(*tied);
    if (probe) print_probe(*probe);
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Linearizes a pretrained Transformer's attention (Liger), ties its layers (recursive), and back; merges "
      "adapters.",
      "liger-convert");
  Options options;
  add_options(app, options);
  tool::add_common_options(app, options.common);
  app.get_option("--threads")->check(whole_number(0));
  return tool::run(app, options.common, argc, argv, [&] {
    check_options(app, options);
    convert(options);
  });
}
