// liger-generate: continues a prompt and streams the text.

#include <unistd.h>

#include <iostream>
#include <iterator>

#include "liger/error.h"
#include "liger/generate/generate.h"
#include "liger/io/chat_template.h"
#include "liger/io/files.h"
#include "liger/io/log.h"
#include "liger/io/process.h"
#include "liger/io/tokenizer.h"
#include "liger/nn/causal_lm.h"
#include "model_arguments.h"
#include "request_batch.h"
#include "tool.h"

namespace liger {
namespace {

struct Arguments {
  tool::CommonOptions common;
  tool::ModelArguments model;
  std::string prompt, chat_template, system_prompt;
  std::filesystem::path file, state_in, state_out;
  bool has_prompt = false, has_system = false, stats = false;
  GenerateOptions generate;
  tool::RequestBatch requests;
};

constexpr const char* kDescription =
    "Continues a prompt and prints the text as it comes; memory stays constant for Liger models.\n\n"
    "  liger-generate --model DIR --prompt 'Once upon a time' --max-tokens 100\n"
    "  liger-generate --model DIR -f prompt.txt --temp 0.8 --top-p 0.95 --seed 7 --stats\n\n"
    "  liger-generate --model DIR --chat-template auto --system-prompt 'Be brief.' -p 'Why is the sky blue?'\n\n"
    "The prompt comes from --prompt, a file or standard input, of which one newline at the end is dropped. An empty\n"
    "prompt is the bare BOS. With --state-in the prompt, maybe empty, goes on where the saved text ended: nothing of "
    "it\n"
    "is read again, and a Liger model's file is of the same size after any text. With --temp 0, the default, the most "
    "probable token is taken. Otherwise, in this order,\n"
    "--top-k keeps the k most probable tokens, --top-p the fewest of these that hold a share P of their probability,\n"
    "--min-p those with at least X times the highest probability.";

void add_options(CLI::App& app, Arguments& a) {
  tool::add_model_options(app, a.model);
  CLI::Option* prompt = app.add_option("-p,--prompt", a.prompt, "Text to continue")->option_text("TEXT");
  app.add_option("-f,--file", a.file, "File with the text to continue")->option_text("FILE")->excludes(prompt);
  app.add_option("-m,--max-tokens", a.generate.max_tokens, "Tokens to generate at most")
      ->capture_default_str()
      ->option_text("N (256)");
  app.add_option("--temp", a.generate.sampling.temperature, "Temperature; 0 = no sampling")->option_text("X (0)");
  app.add_option("--top-p", a.generate.sampling.top_p, "Share of probability to keep")->option_text("P (1)");
  app.add_option("--top-k", a.generate.sampling.top_k, "Tokens to keep; 0 = all")->option_text("N (0)");
  app.add_option("--min-p", a.generate.sampling.min_p, "Least probability to keep, relative")->option_text("X (0)");
  app.add_option("--seed", a.generate.sampling.seed, "The same seed gives the same text")->option_text("N (0)");
  app.add_option("--stop", a.generate.stop, "End before this text; may be repeated")
      ->option_text("TEXT")
      ->allow_extra_args(false);
  app.add_option("--chat-template", a.chat_template, "Tell the model the prompt as a user's message in this form")
      ->option_text("auto|" + chat_template_names("|"));
  app.add_option("--system-prompt", a.system_prompt, "Message before the user's; means --chat-template auto if alone")
      ->option_text("TEXT");
  app.add_flag("--ignore-eos", a.generate.ignore_eos, "Go on after an end-of-text token");
  app.add_option("--state-in", a.state_in, "Go on where a text saved with --state-out ended")->option_text("FILE");
  app.add_option("--state-out", a.state_out, "Save what the model remembers of prompt and text")->option_text("FILE");
  app.add_flag("--stats", a.stats, "Speed and memory on stderr");
  a.requests.add_to(app);
  tool::add_common_options(app, a.common);
}

std::string read_prompt(const Arguments& a) {
  if (a.has_prompt) return a.prompt;
  std::string text;
  if (!a.file.empty()) {
    text = read_text(a.file);
  } else {
    if (!a.state_in.empty() && isatty(STDIN_FILENO) != 0) return "";
    LIGER_CHECK_USAGE(isatty(STDIN_FILENO) == 0, "no prompt: give --prompt, -f FILE or standard input");
    text.assign(std::istreambuf_iterator<char>(std::cin), {});
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

/// The prompt as a conversation in which the assistant has the next word. What user and system say stays text.
std::vector<int64_t> encode_chat(const Arguments& a, const Tokenizer& tokenizer, const std::string& text,
                                 GenerateOptions& options) {
  const std::string setting = "--chat-template";
  const ChatFormat format(chat_template_named(a.chat_template.empty() ? "auto" : a.chat_template, setting), tokenizer,
                          setting);
  std::vector<Message> messages;
  if (a.has_system) messages.push_back({Role::kSystem, a.system_prompt});
  messages.push_back({Role::kUser, text});
  options.also_end.push_back(format.end_of_turn());
  return encode_segments(format.prompt(messages), tokenizer);
}

void warn_if_long(const CausalLM& model, int64_t prompt_tokens, int64_t max_tokens) {
  const int64_t positions = model.config().max_position_embeddings;
  if (!model.config().has_softmax_layers() || positions <= 0 || prompt_tokens + max_tokens <= positions) return;
  log_warning(cat("prompt and text together may reach ", prompt_tokens + max_tokens, " tokens, more than the ",
                  positions, " positions this model was trained for"));
}

void print_stats(const Generation& g) {
  std::cerr << "prompt:     " << g.prompt_tokens << " tokens, " << g.prefill_tokens_per_second() << " tokens/s\n"
            << "generation: " << g.tokens.size() << " tokens, " << g.decode_tokens_per_second() << " tokens/s\n"
            << "peak memory: " << static_cast<double>(peak_memory_bytes()) / (1 << 20) << " MiB\n";
}

OrderedJson to_json(const Generation& g) {
  return {{"text", g.text},
          {"finish_reason", g.finish_reason},
          {"prompt_tokens", g.prompt_tokens},
          {"generated_tokens", g.tokens.size()},
          {"prefill_tokens_per_second", g.prefill_tokens_per_second()},
          {"decode_tokens_per_second", g.decode_tokens_per_second()},
          {"peak_memory_bytes", peak_memory_bytes()}};
}

void answer_requests(const Arguments& a) {
  validate(a.generate);
  LIGER_CHECK_USAGE(
      a.generate.sampling.temperature == 0 && a.generate.stop.empty() && a.state_in.empty() && a.state_out.empty() &&
          a.chat_template.empty() && !a.has_system,
      "--requests takes the most probable token until EOS or max_tokens; expected no --temp, --stop, --state-in, "
      "--state-out, --chat-template and --system-prompt");
  const std::filesystem::path dir = tool::model_folder(a.model);
  const auto tokenizer = Tokenizer::load(dir);
  a.requests.run(*CausalLM::load(dir, tool::load_options(a.model)), *tokenizer, a.generate, a.common);
}

void run(const Arguments& a) {
  if (a.requests.wanted()) return answer_requests(a);
  const bool chat = !a.chat_template.empty() || a.has_system;
  LIGER_CHECK_USAGE(!chat || a.state_in.empty(), "--chat-template begins a conversation; expected no --state-in");
  const std::string text = read_prompt(a);
  validate(a.generate);  // a bad option should not have to wait for the model
  const LoadOptions options = tool::load_options(a.model);
  const std::filesystem::path dir = tool::model_folder(a.model);
  const auto tokenizer = Tokenizer::load(dir);
  const auto model = CausalLM::load(dir, options);
  Conversation conversation;
  if (!a.state_in.empty()) conversation = load_conversation(a.state_in, *model);
  GenerateOptions generating = a.generate;
  const std::vector<int64_t> prompt = chat                 ? encode_chat(a, *tokenizer, text, generating)
                                      : a.state_in.empty() ? encode_prompt(*tokenizer, text)
                                                           : encode_continuation(*tokenizer, text);
  const int64_t seen = conversation.state.seen.empty() ? 0 : conversation.state.seen[0];
  warn_if_long(*model, seen + std::ssize(prompt), a.generate.max_tokens);
  const auto show = [&](std::string_view piece) {
    if (!a.common.json) std::cout << piece << std::flush;
  };
  const Generation result = generate(*model, *tokenizer, prompt, generating, show, &conversation);
  if (!a.state_out.empty()) save_conversation(a.state_out, conversation, *model);
  if (a.common.json) {
    tool::print_json(to_json(result));
  } else {
    std::cout << std::endl;
  }
  if (a.stats) print_stats(result);
}

}  // namespace
}  // namespace liger

int main(int argc, char** argv) {
  CLI::App app(liger::kDescription, "liger-generate");
  liger::Arguments arguments;
  liger::add_options(app, arguments);
  return liger::tool::run(app, arguments.common, argc, argv, [&] {
    arguments.has_prompt = app.count("--prompt") > 0;
    arguments.has_system = app.count("--system-prompt") > 0;
    liger::run(arguments);
  });
}
