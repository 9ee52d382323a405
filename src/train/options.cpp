#include "liger/train/options.h"

#include <limits>
#include <sstream>
#include <type_traits>

#include "liger/error.h"

namespace liger {
namespace {

constexpr double kUnbounded = std::numeric_limits<double>::infinity();

/// Numbers a key accepts.
struct Range {
  double min = -kUnbounded, max = kUnbounded;
  bool above_min = false;  ///< `min` itself is refused
  bool holds(double x) const { return x <= max && (above_min ? x > min : x >= min); }
  std::string text() const {
    const std::string lower = cat(above_min ? "more than " : "at least ", min);
    return max == kUnbounded ? lower : min == -kUnbounded ? cat("at most ", max) : cat(lower, " and at most ", max);
  }
};
constexpr Range kPositive{0, kUnbounded, true};
constexpr Range kNotNegative{0};
constexpr Range kCount{1};

template <typename Enum>
struct Choice {
  Enum value;
  const char* name;  // null = the key is absent or null
};

constexpr auto chat_choices() {
  std::array<Choice<ChatTemplate>, std::size(kChatTemplates) + 1> choices{{{ChatTemplate::kFromTokenizer, nullptr}}};
  for (size_t i = 0; i < std::size(kChatTemplates); ++i) {
    choices[i + 1] = {kChatTemplates[i].which, kChatTemplates[i].name};
  }
  return choices;
}

// The table. A visitor is called as v(key, field, meaning [, range]) for values and v.choice(key, field, choices,
// meaning) for enumerations.

template <typename Options, typename Visitor>
  requires std::is_same_v<std::remove_const_t<Options>, ModelOptions>
void visit(Options& o, Visitor& v) {
  v("path", o.path, "model folder, or a name such as llama3-8b that is in the Hugging Face cache");
  v("adapter", o.adapter, "PEFT LoRA folder to go on from; r, alpha, targets and rslora must be those under lora");
  v.choice("init", o.init, std::array{Choice{Init::kPretrained, "pretrained"}, Choice{Init::kRandom, "random"}},
           "pretrained | random: new weights for a folder with config.json and tokenizer");
  v("dtype", o.dtype, "f32, bf16, f16 or f64; null = as stored, or f32 if lora is null");
  v("device", o.device, "cpu, cuda or cuda:N");
  v.choice(
      "backend", o.backend,
      std::array{Choice{Backend::kAuto, "auto"}, Choice{Backend::kFused, "fused"}, Choice{Backend::kTorch, "torch"}},
      "of Liger layers: auto | fused: compiled code or an error | torch: LibTorch's operators");
  v.choice("attention", o.attention,
           std::array{Choice{Attention::kAsConfigured, nullptr}, Choice{Attention::kSoftmax, "softmax"},
                      Choice{Attention::kLigerGla, "liger_gla"}},
           "null = as config.json says | softmax | liger_gla");
  v("window", o.window, "keys a query of a Liger layer sees, itself included; null = config.json", kCount);
  v("sinks", o.sinks, "first tokens that stay visible in a Liger layer; null = config.json", kNotNegative);
  v("mix", o.mix, "share of the softmax branch in a Liger layer; null = config.json", Range{0, 1});
  v("gate_divisor", o.gate_divisor, "log-decay = logsigmoid(k) / this; null = config.json", kPositive);
}

template <typename Options, typename Visitor>
  requires std::is_same_v<std::remove_const_t<Options>, LoraOptions>
void visit(Options& o, Visitor& v) {
  v("r", o.r, "rank", kCount);
  v("alpha", o.alpha, "the product is scaled by alpha / r", kPositive);
  v("dropout", o.dropout, "share of the adapter's inputs set to zero in training", Range{0, 0.999});
  v("targets", o.targets, "linear modules whose path ends so; or all-linear, or a regular expression for the path");
  v("exclude", o.exclude, "of these, the ones left out, given the same way");
  v("layers", o.layers, "only these layers, counted from 0; [] = all");
  v("rank_pattern", o.rank_pattern, "other ranks: {regular expression for a path or its end: r}; the first that fits");
  v("alpha_pattern", o.alpha_pattern, "other alphas, the same way");
  v("rslora", o.rslora, "scale by alpha / sqrt(r) instead");
  v("dora", o.dora, "also learn the norm of every row of the adapted weight (DoRA)");
  v("own", o.own, "train the adapter that a recursive model brings along: what is above is said by it then");
  v("plus_ratio", o.plus_ratio, "LoRA+: B and DoRA's norms learn at lr times this", Range{1});
  v("mixer", o.mixer, "also learn the numbers of linearized layers' heads: shares, temperatures, gates");
  v("mixer_ratio", o.mixer_ratio, "they learn at lr times this", kPositive);
}

template <typename Options, typename Visitor>
  requires std::is_same_v<std::remove_const_t<Options>, DataOptions>
void visit(Options& o, Visitor& v) {
  v("train", o.train, "rows to learn: .jsonl, .json (an array), either also .gz or .zst");
  v("val", o.val, "rows to validate with; null = the first val_size rows of train, which then does not learn them");
  v("val_size", o.val_size, "rows taken from train if val is null; 0 = no validation", kNotNegative);
  v.choice("format", o.format,
           std::array{Choice{DataFormat::kAlpaca, "alpaca"}, Choice{DataFormat::kCompletion, "completion"},
                      Choice{DataFormat::kText, "text"}, Choice{DataFormat::kChat, "chat"},
                      Choice{DataFormat::kSharegpt, "sharegpt"}},
           "alpaca {instruction, input, output} | completion {prompt, completion} | text {text} | chat {messages: "
           "[{role, content}]} | sharegpt {conversations: [{from, value}]}");
  v.choice(
      "template", o.chat_template, chat_choices(),
      "of chat and sharegpt: how the model reads a conversation (liger-generate --help); null = as the model's own "
      "template and special tokens say");
  v("max_length", o.max_length, "tokens of a row, or of a chunk of packed rows", Range{2});
  v.choice("pack", o.pack, std::array{Choice{Packing::kConcat, "concat"}, Choice{Packing::kNone, "none"}},
           "concat: rows one after the other, cut into chunks of max_length, never seeing each other | none");
  v.choice("over_length", o.over_length,
           std::array{Choice{OverLength::kError, "error"}, Choice{OverLength::kTruncate, "truncate"},
                      Choice{OverLength::kDrop, "drop"}, Choice{OverLength::kSplit, "split"}},
           "rows of more than max_length tokens: error | truncate | drop | split");
  v("cache", o.cache, "folder for tokens that runs share; null = save.dir/tokens, for this run");
}

template <typename Options, typename Visitor>
  requires std::is_same_v<std::remove_const_t<Options>, TrainOptions>
void visit(Options& o, Visitor& v) {
  v("epochs", o.epochs, "passes over the data", kCount);
  v("max_steps", o.max_steps, "updates, in place of epochs; null = epochs", kCount);
  v("batch_size", o.batch_size, "chunks (rows if pack is none) of one update", kCount);
  v("micro_batch_size", o.micro_batch_size, "of these at a time in memory; divides batch_size", kCount);
  v.choice("activation_checkpointing", o.activation_checkpointing,
           std::array{Choice{ActivationCheckpointing::kNone, "none"}, Choice{ActivationCheckpointing::kFull, "full"}},
           "none | full: each layer keeps what it reads only, and is run again in the backward pass: much less memory, "
           "a third to a half more time, the same result");
  v.choice("optimizer", o.optimizer,
           std::array{Choice{OptimizerKind::kAdamW, "adamw"}, Choice{OptimizerKind::kAdamW8bit, "adamw8bit"}},
           "adamw | adamw8bit: a quarter of its memory, moments in blocks of 256 bytes");
  v("lr", o.lr, "learning rate", kPositive);
  v("weight_decay", o.weight_decay, "decoupled, on matrices only", kNotNegative);
  v("beta1", o.beta1, "AdamW", Range{0, 0.999999});
  v("beta2", o.beta2, "AdamW", Range{0, 0.999999});
  v("eps", o.eps, "AdamW", kPositive);
  v.choice("scheduler", o.scheduler,
           std::array{Choice{SchedulerKind::kConstant, "constant"}, Choice{SchedulerKind::kCosine, "cosine"},
                      Choice{SchedulerKind::kLinear, "linear"}, Choice{SchedulerKind::kPlateau, "plateau"}},
           "constant | cosine | linear | plateau (of the validation loss)");
  v("warmup_steps", o.warmup_steps, "updates in which the rate rises linearly to lr", kNotNegative);
  v("min_lr", o.min_lr, "where cosine and linear end, and plateau stops falling", kNotNegative);
  v("plateau_factor", o.plateau_factor, "the rate is multiplied by this", Range{0, 0.999, true});
  v("plateau_patience", o.plateau_patience, "validations without a better loss before that", kNotNegative);
  v("max_grad_norm", o.max_grad_norm, "gradients are scaled down to this global norm; 0 = never", kNotNegative);
  v("seed", o.seed, "of the order of the data, of new weights and of dropout", kNotNegative);
  v("eval_every", o.eval_every, "updates between validations, beside the first and the last; 0 = only these",
    kNotNegative);
  v.choice("on_nonfinite", o.on_nonfinite, std::array{Choice{OnNonfinite::kStop, "stop"}},
           "stop: a NaN or infinity ends the run before the update");
  v("ddp_timeout", o.ddp_timeout, "of several ranks: seconds to wait for one that says nothing", kCount);
}

template <typename Options, typename Visitor>
  requires std::is_same_v<std::remove_const_t<Options>, DistillOptions>
void visit(Options& o, Visitor& v) {
  v("teacher", o.teacher, "model folder or name; null = the base model with softmax attention");
  v.choice(
      "divergence", o.divergence,
      std::array{Choice{Divergence::kForward, "forward-kl"}, Choice{Divergence::kReverse, "reverse-kl"},
                 Choice{Divergence::kJensenShannon, "jensen-shannon"},
                 Choice{Divergence::kTotalVariation, "total-variation"}},
      "of the model's distribution from the teacher's: forward-kl | reverse-kl | jensen-shannon | total-variation");
  v("weight", o.weight, "share of the divergence from the teacher in the loss; the rest is cross-entropy", Range{0, 1});
  v("temperature", o.temperature, "of both distributions; the divergence counts its square", kPositive);
  v("attention_steps", o.attention_steps,
    "the first updates learn what each layer's attention writes in the teacher, instead of tokens (LoLCATs)",
    kNotNegative);
}

template <typename Options, typename Visitor>
  requires std::is_same_v<std::remove_const_t<Options>, ExitOptions>
void visit(Options& o, Visitor& v) {
  v("weight", o.weight, "what the loss after each loop but the last counts; that of the last counts 1", kNotNegative);
  v("distill", o.distill, "share in it of the divergence from the last loop's distribution; the rest is cross-entropy",
    Range{0, 1});
}

template <typename Options, typename Visitor>
  requires std::is_same_v<std::remove_const_t<Options>, SaveOptions>
void visit(Options& o, Visitor& v) {
  v("dir", o.dir, "folder of the run: ckpt-N, metrics, and the result in final");
  v("every", o.every, "updates between checkpoints; 0 = none but the result", kNotNegative);
  v("keep", o.keep, "newest checkpoints kept", kCount);
  v("resume", o.resume, "auto: from the newest good checkpoint in dir | never | a checkpoint folder");
  v("overwrite", o.overwrite, "an earlier run in dir is removed if it is not resumed");
}

template <typename Options, typename Visitor>
  requires std::is_same_v<std::remove_const_t<Options>, LogOptions>
void visit(Options& o, Visitor& v) {
  v("every", o.every, "updates between rows of the metrics", kCount);
  v("jsonl", o.jsonl, "write metrics.jsonl");
  v("csv", o.csv, "write metrics.csv");
  v("tensorboard", o.tensorboard, "write events.out.tfevents.*, for TensorBoard");
  v("svg", o.svg, "draw loss.svg at each save");
}

template <typename Options, typename Visitor>
  requires std::is_same_v<std::remove_const_t<Options>, SampleOptions>
void visit(Options& o, Visitor& v) {
  v("prompts", o.prompts, "texts that the model continues, as they are: no template, special tokens count");
  v("every", o.every, "updates between, beside the first and the last", kCount);
  v("max_new_tokens", o.max_new_tokens, "of each text, if it does not end before", kCount);
  v("temperature", o.temperature, "0 = always the most probable token", kNotNegative);
}

/// Calls v.section(name, section [, what it means if it is null]) for all of them in the order of the file.
template <typename Options, typename Visitor>
void visit_sections(Options& o, Visitor& v) {
  v.section("model", o.model);
  v.section("lora", o.lora, "every parameter is trained");
  v.section("data", o.data);
  v.section("train", o.train);
  v.section("distill", o.distill, "the targets alone are learned; otherwise what the teacher gives each token");
  v.section("exits", o.exits,
            "a recursive model's last loop alone learns; otherwise the earlier ones too, to be left early");
  v.section("save", o.save);
  v.section("log", o.log);
  v.section("sample", o.sample,
            "no text is generated; otherwise samples.jsonl tells what the model writes as it learns");
}

template <typename T>
struct Unwrapped {
  using type = T;
};
template <typename T>
struct Unwrapped<std::optional<T>> {
  using type = T;
};

class FieldReader {
 public:
  explicit FieldReader(Settings settings) : settings_(std::move(settings)) {}

  template <typename T>
  void operator()(const char* key, T& field, const char*, Range range = {}) {
    settings_.get(key, field);
    using Value = typename Unwrapped<T>::type;
    if constexpr (std::is_same_v<Value, T>) {
      check(key, field, range);
    } else if (field) {
      check(key, *field, range);
    }
  }

  void operator()(const char* key, ModuleSelector& field, const char*, Range = {}) {
    if (!settings_.has(key)) return;
    field = {};
    if (settings_.to_json()[key].is_string()) {
      settings_.get(key, field.regex);
    } else {
      settings_.get(key, field.names);
    }
  }

  template <typename Number>
  void operator()(const char* key, std::vector<std::pair<std::string, Number>>& field, const char*, Range = {}) {
    const Settings entries = settings_.section(key);
    if (!settings_.has(key)) return;
    field.clear();
    for (const std::string& name : entries.keys()) {
      field.emplace_back(name, Number{});
      entries.get(name, field.back().second);
    }
  }

  template <typename Enum, size_t N>
  void choice(const char* key, Enum& field, const std::array<Choice<Enum>, N>& choices, const char*) {
    std::optional<std::string> name;
    if (!settings_.has(key)) return;
    settings_.get(key, name);
    std::string known;
    for (const auto& [value, known_name] : choices) {
      if (known_name == nullptr ? !name : name == known_name) {
        field = value;
        return;
      }
      known += cat(known.empty() ? "" : ", ", known_name == nullptr ? "null" : known_name);
    }
    settings_.fail_at(key, cat("expected one of ", known, ", got ", name ? *name : "null"));
  }

 private:
  template <typename T>
  void check(const char* key, const T& value, const Range& range) const {
    if constexpr (std::is_arithmetic_v<T>) {
      if (!range.holds(static_cast<double>(value))) {
        settings_.fail_at(key, cat("expected ", range.text(), ", got ", value));
      }
    }
  }
  Settings settings_;
};

class Reader {
 public:
  explicit Reader(const Settings& settings) : settings_(settings) {}

  template <typename Section>
  void section(const char* name, Section& section) {
    FieldReader fields(settings_.section(name));
    visit(section, fields);
  }
  template <typename Section>
  void section(const char* name, std::optional<Section>& section, const char*) {
    if (settings_.has(name) && settings_.is_null(name)) {
      settings_.section(name);  // asked for
      section.reset();
    } else if (settings_.has(name) || section) {
      this->section(name, section.emplace());
    }
  }

 private:
  const Settings& settings_;
};

/// As YAML and JSON have it.
template <typename T>
OrderedJson json_of(const T& field) {
  return field;
}
template <typename T>
OrderedJson json_of(const std::optional<T>& field) {
  return field ? OrderedJson(*field) : OrderedJson();
}
OrderedJson json_of(const ModuleSelector& field) {
  return field.regex.empty() ? OrderedJson(field.names) : OrderedJson(field.regex);
}
template <typename Number>
OrderedJson json_of(const std::vector<std::pair<std::string, Number>>& field) {
  OrderedJson out = OrderedJson::object();
  for (const auto& [key, number] : field) out[key] = number;
  return out;
}

/// Turns options into JSON, and into the lines of a YAML file with what each key means.
class Writer {
 public:
  template <typename Section>
  void section(const char* name, const Section& section) {
    yaml_ << (json_.empty() ? "" : "\n") << name << ":\n";
    fields_ = OrderedJson::object();
    visit(section, *this);
    json_[name] = fields_;
  }
  template <typename Section>
  void section(const char* name, const std::optional<Section>& section, const char* without) {
    if (section) return this->section(name, *section);
    yaml_ << "\n" << name << ": null  # " << without << "\n";
    json_[name] = nullptr;
  }

  template <typename T>
  void operator()(const char* key, const T& field, const char* meaning, Range = {}) {
    line(key, json_of(field), meaning);
  }
  template <typename Enum, size_t N>
  void choice(const char* key, Enum field, const std::array<Choice<Enum>, N>& choices, const char* meaning) {
    for (const auto& [value, name] : choices) {
      if (value == field) line(key, name == nullptr ? OrderedJson() : OrderedJson(name), meaning);
    }
  }

  std::string yaml() const { return yaml_.str(); }
  const OrderedJson& json() const { return json_; }

 private:
  // JSON's scalars, lists and mappings are YAML's too.
  void line(const char* key, const OrderedJson& value, const char* meaning) {
    yaml_ << "  " << key << ": " << value.dump() << "  # " << meaning << "\n";
    fields_[key] = value;
  }

  std::ostringstream yaml_;
  OrderedJson json_ = OrderedJson::object(), fields_;
};

/// Writes what each key is as tables in Markdown.
class Documenter {
 public:
  template <typename Section>
  void section(const char* name, const Section& section) {
    out_ << "\n## " << name << "\n\n| key | value | default | meaning |\n| --- | --- | --- | --- |\n";
    visit(section, *this);
  }
  template <typename Section>
  void section(const char* name, const std::optional<Section>& section, const char* without) {
    this->section(name, section.value_or(Section()));
    out_ << "\n`" << name << ": null`" << (section ? "" : ", the default") << ": " << without << ".\n";
  }

  template <typename T>
  void operator()(const char* key, const T& field, const char* meaning, Range range = {}) {
    std::string value = kind(typename Unwrapped<T>::type());
    if (range.min != -kUnbounded || range.max != kUnbounded) value += ", " + range.text();
    if (!std::is_same_v<typename Unwrapped<T>::type, T>) value += ", or null";
    row(key, value, default_of(field), meaning);
  }
  template <typename Enum, size_t N>
  void choice(const char* key, Enum field, const std::array<Choice<Enum>, N>& choices, const char* meaning) {
    std::string known, chosen;
    for (const auto& [value, name] : choices) {
      const std::string shown = cat("`", name == nullptr ? "null" : name, "`");
      known += (known.empty() ? "" : ", ") + shown;
      if (value == field) chosen = shown;
    }
    row(key, known, chosen, meaning);
  }

  std::string text() const { return out_.str(); }

 private:
  static std::string kind(bool) { return "true or false"; }
  static std::string kind(int64_t) { return "whole number"; }
  static std::string kind(double) { return "number"; }
  static std::string kind(const std::string&) { return "text"; }
  static std::string kind(const std::vector<std::string>&) { return "list of texts"; }
  static std::string kind(const std::vector<int64_t>&) { return "list of whole numbers"; }
  static std::string kind(const ModuleSelector&) { return "list of texts, or text"; }
  template <typename Number>
  static std::string kind(const std::vector<std::pair<std::string, Number>>&) {
    return cat("mapping of texts to ", kind(Number()), "s");
  }

  template <typename T>
  static std::string default_of(const T& field) {
    return cat("`", json_of(field).dump(), "`");
  }
  static std::string default_of(const std::string& field) {
    return field.empty() ? "has to be set" : cat("`", field, "`");
  }
  template <typename T>
  static std::string default_of(const std::optional<T>& field) {
    return field ? default_of(*field) : "`null`";
  }

  void row(const char* key, const std::string& value, const std::string& chosen, const std::string& meaning) {
    std::string cell;
    for (const char c : meaning) cell += c == '|' ? std::string("\\|") : std::string(1, c);  // '|' ends a cell
    out_ << "| `" << key << "` | " << value << " | " << chosen << " | " << cell << " |\n";
  }

  std::ostringstream out_;
};

void check_model(const Settings& settings, const FinetuneOptions& o) {
  const Settings model = settings.section("model");
  const ModelOptions& m = o.model;
  if (m.path.empty()) model.fail_at("path", "expected a model folder or a name, got nothing");
  if (m.attention == Attention::kSoftmax) {
    if (m.window) model.fail_at("window", "softmax attention has no window; set model.attention to liger_gla");
    if (m.sinks) model.fail_at("sinks", "softmax attention has no sinks; set model.attention to liger_gla");
    if (m.mix) model.fail_at("mix", "softmax attention has nothing to mix; set model.attention to liger_gla");
    if (m.gate_divisor)
      model.fail_at("gate_divisor", "softmax attention has no gate; set model.attention to liger_gla");
  }
  if (m.adapter && !o.lora) model.fail_at("adapter", "goes on from a LoRA adapter, but lora is null");
  if (o.lora && m.init == Init::kRandom) {
    model.fail_at("init",
                  "an adapter of random weights is of no use without them, and they are not saved; set lora to null");
  }
  const bool wide =
      !m.dtype || *m.dtype == "f32" || *m.dtype == "float32" || *m.dtype == "f64" || *m.dtype == "float64";
  if (!o.lora && !wide) {
    model.fail_at("dtype", cat("trainable parameters are held in float32, and lora: null trains all of them; "
                               "expected null, f32 or f64, got ",
                               *m.dtype));
  }
}

void check_run(const Settings& settings, const FinetuneOptions& o) {
  const Settings data = settings.section("data"), train = settings.section("train"), save = settings.section("save");
  if (o.data.train.empty()) data.fail_at("train", "expected a .jsonl or .json file, got nothing");
  const bool chat = o.data.format == DataFormat::kChat || o.data.format == DataFormat::kSharegpt;
  if (!chat && o.data.chat_template != ChatTemplate::kFromTokenizer) {
    data.fail_at("template", "belongs to the formats chat and sharegpt");
  }
  if (o.data.cache && o.data.cache->empty()) data.fail_at("cache", "expected a folder or null, got nothing");
  if (o.save.dir.empty()) save.fail_at("dir", "expected a folder for the run, got nothing");
  if (o.train.batch_size % o.train.micro_batch_size != 0) {
    train.fail_at("batch_size", cat("expected a multiple of micro_batch_size ", o.train.micro_batch_size, ", got ",
                                    o.train.batch_size));
  }
  const bool validates = o.data.val || o.data.val_size > 0;
  if (o.train.scheduler == SchedulerKind::kPlateau && !validates) {
    train.fail_at("scheduler", "plateau follows the validation loss, but data.val is null and data.val_size is 0");
  }
  if (o.train.scheduler != SchedulerKind::kConstant && o.train.min_lr > o.train.lr) {
    train.fail_at("min_lr", cat("expected at most lr ", o.train.lr, ", got ", o.train.min_lr));
  }
  if (o.sample && o.sample->prompts.empty())
    settings.section("sample").fail_at("prompts", "expected at least one text");
  if (o.lora && o.lora->targets.empty()) settings.section("lora").fail_at("targets", "names no layer");
  if (o.lora && !o.lora->layers.empty() && !o.lora->targets.regex.empty()) {
    settings.section("lora").fail_at("layers", "does not go together with a regular expression for targets");
  }
}

}  // namespace

FinetuneOptions read_finetune_options(const Settings& settings) {
  FinetuneOptions options;
  Reader reader(settings);
  visit_sections(options, reader);
  settings.reject_unknown();
  check_model(settings, options);
  check_run(settings, options);
  return options;
}

std::string options_table() {
  Documenter tables;
  const FinetuneOptions defaults;
  visit_sections(defaults, tables);
  return "# Keys of a configuration for liger-finetune\n\nWritten by `liger-finetune --help-config`.\n" + tables.text();
}

std::string to_yaml(const FinetuneOptions& options) {
  Writer writer;
  visit_sections(options, writer);
  return writer.yaml();
}

OrderedJson to_json(const FinetuneOptions& options) {
  Writer writer;
  visit_sections(options, writer);
  return writer.json();
}

}  // namespace liger
