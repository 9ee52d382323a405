#include "liger/core/model_config.h"

#include <cmath>

#include "liger/error.h"
#include "liger/io/json.h"
#include "liger/models/family.h"
#include "liger/models/structure.h"
#include "models/attention_keys.h"
#include "models/config_reader.h"

namespace liger {
namespace {

// Far above any model, far below what would overflow a product of two.
constexpr int64_t kMaxSize = int64_t{1} << 24, kMaxLayers = 4096;

// Of a family whose heads turn in part.
int64_t read_rotary_dim(const ConfigReader& config, const ModelConfig& c) {
  if (c.family->rotary_share == 1) return 0;
  double share = config.positive_or("rotary_pct", c.family->rotary_share);
  if (config.has("rope_parameters")) {
    const ConfigReader reader(config.at("rope_parameters"), config.source() + ": 'rope_parameters'");
    share = reader.positive_or("partial_rotary_factor", share);
  }
  // Rounded down as transformers does, but not what is a whole number but for the division that made the share.
  const auto channels = static_cast<int64_t>(static_cast<double>(c.head_dim) * std::min(share, 2.0) + 1e-6);
  LIGER_CHECK(channels >= 2 && channels <= c.head_dim && channels % 2 == 0, config.source(),
              ": 'rotary_pct': expected a share that makes an even number of a head's ", c.head_dim,
              " channels turn, got ", share, ", which is ", channels);
  return channels == c.head_dim ? 0 : channels;
}

std::vector<int64_t> read_eos(const ConfigReader& config) {
  if (!config.has("eos_token_id")) return {};
  const Json& value = config.at("eos_token_id");
  std::vector<int64_t> ids;
  for (const Json& id : value.is_array() ? value : Json::array({value})) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0) config.bad("eos_token_id", "a token id or a list of them");
    ids.push_back(id.get<int64_t>());
  }
  return ids;
}

std::string family_names() {
  std::string list;
  for (const Family* family : families()) list += cat(list.empty() ? "" : ", ", family->model_type);
  return list;
}

std::string supported_model_types() {
  std::string list = family_names();
  for (const Structure& structure : structures()) list += cat(", ", liger_model_type(structure.name));
  return list;
}

// The model_type that the "liger" object of a model_type without one asks for.
std::string fitting_model_type(const Json& liger) {
  const bool named = liger.is_object() && liger.contains("recurrence") && liger["recurrence"].is_string();
  const std::string name = named ? liger["recurrence"].get<std::string>() : LigerConfig{}.recurrence;
  return find_structure(name) ? cat("'", liger_model_type(name), "'") : "that of its recurrence";
}

// What the "liger" object says, or leaves to a model_type of `structure`; `base` becomes the family's model_type.
LigerConfig read_liger(const ConfigReader& reader, const Structure& structure, std::string& base) {
  const LigerConfig defaults{.recurrence = structure.name};
  const std::string source = reader.source() + ": 'liger'", model_type = liger_model_type(structure.name);
  base = "llama";
  if (!reader.has("liger")) {
    LIGER_CHECK(structure.published, source, ": expected an object, as model_type '", model_type,
                "' is not the published code's, got nothing");
    return defaults;
  }
  Json object = reader.at("liger");
  if (object.is_object()) object.erase("added");  // what liger-convert takes away again, of no meaning to the model
  if (object.is_object() && object.contains("base_model_type")) {
    const Json& type = object["base_model_type"];
    const bool known = type.is_string() && find_family(type.get<std::string>()) != nullptr;
    LIGER_CHECK(known, source, ": base_model_type: expected one of ", family_names(), ", got ",
                type.dump().substr(0, 80));
    base = type.get<std::string>();
    object.erase("base_model_type");
  }
  const LigerConfig liger = liger_config_from_json(object, source, defaults);
  LIGER_CHECK(liger.recurrence == structure.name, reader.source(), ": model_type '", model_type,
              "' contradicts 'liger', whose recurrence is '", liger.recurrence, "'; expected model_type '",
              liger_model_type(liger.recurrence), "' or recurrence '", structure.name, "'");
  return liger;
}

// Sets family and liger from "model_type" and the "liger" object.
void read_model_type(const ConfigReader& reader, ModelConfig& config) {
  const std::string model_type = reader.text("model_type");
  std::string base = model_type;
  if (const Structure* structure = find_structure_of_model_type(model_type)) {
    config.liger = read_liger(reader, *structure, base);
  }
  config.family = find_family(base);
  LIGER_CHECK(config.family != nullptr || !reader.has("text_config"), reader.source(), ": model_type '", model_type,
              "' has its text model within another ('text_config'), and only text models are supported; save that one "
              "alone, as one of ",
              family_names());
  LIGER_CHECK(config.family != nullptr, reader.source(), ": model_type '", model_type, "' is not supported (",
              supported_model_types(), " are)");
  LIGER_CHECK(config.liger || !reader.has("liger"), reader.source(), ": model_type '", model_type,
              "' contradicts the object 'liger'; remove the object for softmax attention, or set model_type to ",
              fitting_model_type(reader.has("liger") ? reader.at("liger") : Json()));
}

// "recursive" beside "num_hidden_layers", which are the stored ones then: for everybody else this is a plain model.
void read_recursion(const ConfigReader& config, ModelConfig& c) {
  const ConfigReader reader(config.at("recursive"), config.source() + ": 'recursive'");
  Recursion recursion;
  recursion.loops = reader.integer("loops", 2, 4096);
  try {
    recursion.sharing = sharing_from_name(reader.text("sharing"));
  } catch (const Error& e) {
    fail(ErrorCode::kBadInput, reader.source(), ": ", e.what());
  }
  const std::string norms = reader.text_or("norms", "tied");
  if (norms != "tied" && norms != "depth") reader.bad("norms", "tied or depth");
  recursion.depth_norms = norms == "depth";
  const std::string biases = reader.text_or("biases", "tied");
  if (biases != "tied" && biases != "depth") reader.bad("biases", "tied or depth");
  recursion.depth_biases = biases == "depth";
  recursion.adapter = reader.boolean_or("adapter", recursion.depth_norms || recursion.depth_biases);
  const int64_t least = recursion.keeps_ends() ? 3 : 1;
  if (c.num_hidden_layers < least)
    config.bad("num_hidden_layers", cat(least, " or more, as sharing '", to_string(recursion.sharing), "' needs"));
  c.num_hidden_layers = recursion.depths(c.num_hidden_layers);
  if (c.num_hidden_layers > kMaxLayers)
    config.bad("num_hidden_layers", cat("at most ", kMaxLayers, " depths, not ", c.num_hidden_layers));
  c.recursive = recursion;
}

// What a "liger" object cannot be judged by alone.
void check_liger(const ConfigReader& reader, const ModelConfig& config) {
  validate(*config.liger, config, reader.source() + ": 'liger'", ErrorCode::kBadInput);
  if (config.liger->recurrence != "gsa") return;
  // The published code pools the keys of a layer to this many slots a head, 64 if config.json does not say. Files with
  // a "liger" object are ours.
  const int64_t by_default = reader.has("liger") ? config.head_dim : 64;
  const int64_t slots = reader.integer_or("pool_size", by_default, 1, int64_t{1} << 24);
  LIGER_CHECK(slots == config.head_dim, reader.source(), ": 'pool_size': expected head_dim = ", config.head_dim,
              ", got ", reader.has("pool_size") ? "" : "nothing, which means ", slots,
              "; a gate that is pooled to more or fewer slots than a key has channels is not supported");
}

}  // namespace

ModelConfig ModelConfig::read(const std::filesystem::path& dir) {
  const auto file = dir / "config.json";
  LIGER_CHECK(std::filesystem::exists(file), dir.string(),
              ": no config.json there; expected a Hugging Face model folder");
  return from_json(read_json(file, size_t{16} << 20), file.string());
}

ModelConfig ModelConfig::from_json(const Json& json, const std::string& source) {
  const ConfigReader reader(json, source);
  ModelConfig c;
  read_model_type(reader, c);
  c.vocab_size = reader.integer("vocab_size", 1, kMaxSize);
  c.hidden_size = reader.integer("hidden_size", 1, kMaxSize);
  c.intermediate_size = reader.integer("intermediate_size", 1, kMaxSize);
  c.num_hidden_layers = reader.integer("num_hidden_layers", 1, kMaxLayers);
  if (reader.has("recursive")) read_recursion(reader, c);
  c.num_attention_heads = reader.integer("num_attention_heads", 1, kMaxSize);
  c.num_key_value_heads = c.num_attention_heads;
  if (!c.family->fused_attention())
    c.num_key_value_heads = reader.integer_or("num_key_value_heads", c.num_attention_heads, 1, c.num_attention_heads);
  if (c.num_attention_heads % c.num_key_value_heads != 0)
    reader.bad("num_key_value_heads", cat("a divisor of num_attention_heads = ", c.num_attention_heads));
  const bool divides = c.family->head_dim == 0 && !reader.has("head_dim");
  if (divides && c.hidden_size % c.num_attention_heads != 0)
    reader.bad("num_attention_heads", cat("a divisor of hidden_size = ", c.hidden_size));
  c.head_dim =
      reader.integer_or("head_dim", divides ? c.hidden_size / c.num_attention_heads : c.family->head_dim, 1, 65536);
  if (c.family->fused_attention() && c.head_dim * c.num_attention_heads != c.hidden_size)
    reader.bad("head_dim", cat("hidden_size / num_attention_heads = ", c.hidden_size / c.num_attention_heads));
  LIGER_CHECK(c.head_dim % 2 == 0, source, ": head_dim ", c.head_dim, " is odd; rotary embeddings need an even one");
  c.max_position_embeddings = reader.integer_or("max_position_embeddings", 2048, 1, int64_t{1} << 40);
  c.rotary_dim = read_rotary_dim(reader, c);
  c.norm_eps = reader.positive_or(c.family->norm_eps_key, c.family->norm_eps);
  c.initializer_range = reader.positive_or("initializer_range", 0.02);
  read_attention(reader, c);
  c.tie_word_embeddings = reader.boolean_or("tie_word_embeddings", c.family->tied_by_default);
  c.attention_bias = c.family->input_biases || reader.boolean_or("attention_bias", c.family->biases);
  c.mlp_bias = c.family->gated_mlp() ? !c.family->input_biases && reader.boolean_or("mlp_bias", c.family->biases)
                                     : c.family->biases;
  c.parallel_residual = c.family->parallel_residual && reader.boolean_or("use_parallel_residual", true);
  c.hidden_act = c.family->ignores_hidden_act ? c.family->hidden_act
                                              : reader.text_or(c.family->hidden_act_key, c.family->hidden_act);
  if (c.hidden_act == "gelu_new" || c.hidden_act == "gelu_fast") c.hidden_act = "gelu_pytorch_tanh";  // the same curve
  if (c.hidden_act != "silu" && c.hidden_act != "gelu_pytorch_tanh" && c.hidden_act != "gelu")
    reader.bad(c.family->hidden_act_key, "silu, gelu or gelu_pytorch_tanh");
  if (reader.has("bos_token_id")) c.bos_token_id = reader.integer("bos_token_id", 0, kMaxSize);
  c.eos_token_ids = read_eos(reader);
  c.stored_dtype = reader.text_or("dtype", reader.text_or("torch_dtype", ""));
  if (c.liger) check_liger(reader, c);
  return c;
}

OrderedJson to_json(const Recursion& recursion) {
  OrderedJson out = {{"loops", recursion.loops},
                     {"sharing", to_string(recursion.sharing)},
                     {"norms", recursion.depth_norms ? "depth" : "tied"}};
  if (recursion.depth_biases) out["biases"] = "depth";
  out["adapter"] = recursion.adapter;
  return out;
}

bool ModelConfig::output_bias() const { return attention_bias && !family->input_biases; }

double ModelConfig::query_factor() const {
  return query_pre_attn_scalar == 0 ? 1 : std::sqrt(static_cast<double>(head_dim) / query_pre_attn_scalar);
}

std::string ModelConfig::stored_name(const std::string& name) const {
  const auto layer = recursive ? layer_and_name(name) : std::nullopt;
  return layer ? cat(family->layers(), slot(layer->first), ".", layer->second) : name;
}

ModelConfig ModelConfig::unrolled() const {
  ModelConfig out = *this;
  out.recursive.reset();
  return out;
}

OrderedJson ModelConfig::to_json() const {
  OrderedJson out;
  out["architectures"] = {liger ? liger_architecture(liger->recurrence) : family->architecture};
  out["model_type"] = liger ? liger_model_type(liger->recurrence) : family->model_type;
  out["vocab_size"] = vocab_size;
  out["hidden_size"] = hidden_size;
  out["intermediate_size"] = intermediate_size;
  out["num_hidden_layers"] = stored_layers();
  out["num_attention_heads"] = num_attention_heads;
  if (!family->fused_attention()) {
    out["num_key_value_heads"] = num_key_value_heads;
    out["head_dim"] = head_dim;
  }
  out["max_position_embeddings"] = max_position_embeddings;
  out[family->norm_eps_key] = norm_eps;
  out["initializer_range"] = initializer_range;
  out[family->hidden_act_key] = hidden_act;
  if (family->ignores_hidden_act) out["hidden_activation"] = hidden_act;
  out["attention_bias"] = attention_bias;
  if (family->gated_mlp()) out["mlp_bias"] = mlp_bias;
  if (family->parallel_residual) out["use_parallel_residual"] = parallel_residual;
  out["tie_word_embeddings"] = tie_word_embeddings;
  write_attention(*this, out);
  if (bos_token_id) out["bos_token_id"] = *bos_token_id;
  if (eos_token_ids.size() == 1) out["eos_token_id"] = eos_token_ids[0];
  if (eos_token_ids.size() > 1) out["eos_token_id"] = eos_token_ids;
  if (!stored_dtype.empty()) out["torch_dtype"] = out["dtype"] = stored_dtype;
  if (recursive) out["recursive"] = liger::to_json(*recursive);
  if (liger) {
    if (liger->recurrence == "gsa") out["pool_size"] = head_dim;
    out["liger"] = liger::to_json(*liger);
    out["liger"]["base_model_type"] = family->model_type;
  }
  return out;
}

}  // namespace liger
