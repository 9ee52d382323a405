#include "liger/eval/document.h"

#include <algorithm>
#include <iterator>

#include "eval/examples.h"
#include "eval/python_value.h"
#include "eval/task_fields.h"
#include "liger/error.h"

namespace liger {
namespace {

using eval::TaskFields;

bool is_digits(const OrderedJson& value) {
  if (!value.is_string()) return false;
  const std::string& text = value.get_ref<const std::string&>();
  return !text.empty() && text.size() < 10 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// A row's fields, as lm-evaluation-harness understands them.
class Reading {
 public:
  Reading(const Task& task, const OrderedJson& row) : fields_(*task.fields), row_(row) {
    if (!fields_.choices.given()) return;
    const OrderedJson list = with_context("doc_to_choice", [&] { return fields_.choices.literal_of(row); });
    const bool fits = (list.is_array() || list.is_object()) && !list.empty() &&
                      std::all_of(list.begin(), list.end(), [](const OrderedJson& item) { return item.is_string(); });
    LIGER_CHECK(fits, "doc_to_choice: expected a list of strings, got ", list.dump().substr(0, 80));
    for (const OrderedJson& item : list) choices.push_back(item.get<std::string>());
  }

  std::vector<std::string> choices;

  /// Text, or the index of the context that is right.
  OrderedJson text() const {
    return with_context("doc_to_text", [&] {
      const OrderedJson value = number_or(fields_.text);
      LIGER_CHECK(value.is_string() || (value.is_number_integer() && !choices.empty()), "expected a string, got ",
                  eval::describe(value));
      return value;
    });
  }
  /// Text, the index of a choice, or a list of them.
  OrderedJson target() const {
    return with_context("doc_to_target", [&] {
      const OrderedJson value = number_or(fields_.target);
      const std::string text = value.is_string() ? value.get<std::string>() : "";
      if (!text.starts_with('[') || !text.ends_with(']') || !fields_.target.is_rendered(row_)) return value;
      try {
        return fields_.target.literal_of(row_);
      } catch (const Error&) {  // a text in brackets then
        return value;
      }
    });
  }
  int64_t choice(const OrderedJson& value, const char* what) const {
    if (value.is_string()) {
      const auto found = std::find(choices.begin(), choices.end(), value.get<std::string>());
      LIGER_CHECK(found != choices.end(), what, ": '", value.get<std::string>().substr(0, 80),
                  "' is none of the choices");
      return found - choices.begin();
    }
    const bool fits =
        value.is_number_integer() && value.get<int64_t>() >= 0 && value.get<int64_t>() < std::ssize(choices);
    LIGER_CHECK(fits, what, ": expected the index of a choice, 0 to ", choices.size() - 1, ", got ",
                value.dump().substr(0, 80));
    return value.get<int64_t>();
  }

 private:
  // Digits that a template wrote are the index of a choice.
  OrderedJson number_or(const eval::TaskField& field) const {
    OrderedJson value = field.of(row_);
    const bool is_index = !choices.empty() && field.is_rendered(row_) && is_digits(value);
    return is_index ? OrderedJson(std::stoll(value.get<std::string>())) : value;
  }

  const TaskFields& fields_;
  const OrderedJson& row_;
};

// Prefix and suffix with the delimiter between them, unless there is white space already.
std::string delimited(const std::string& prefix, const std::string& suffix, const std::string& delimiter) {
  if (prefix.empty() || suffix.empty()) return prefix + suffix;
  const bool spaced = eval::stripped(prefix, eval::Ends::kRight).size() != prefix.size() ||
                      eval::stripped(suffix, eval::Ends::kLeft).size() != suffix.size();
  return spaced ? prefix + suffix : prefix + delimiter + suffix;
}

// A part of a context: one message of a chat, or text with what stands behind it.
struct Turn {
  Message message;
  std::string delimiter;
};
using Turns = std::vector<Turn>;

// A question and its answer, as an example.
Turns shown(const Task& task, const OrderedJson& row) {
  const Reading reading(task, row);
  OrderedJson text = reading.text(), target = reading.target();
  if (text.is_number()) text = reading.choices[static_cast<size_t>(reading.choice(text, "doc_to_text"))];
  if (target.is_array() && !target.empty()) target = target[0];
  if (target.is_number_integer() && !reading.choices.empty())
    target = reading.choices[static_cast<size_t>(reading.choice(target, "doc_to_target"))];
  LIGER_CHECK(target.is_string(), "doc_to_target: expected a string, got ", eval::describe(target));
  const std::string answer = target.get<std::string>();
  Turns turns;
  turns.push_back({{Role::kUser, text.get<std::string>()}, answer.empty() ? "" : task.target_delimiter});
  if (!answer.empty()) turns.push_back({{Role::kAssistant, answer}, task.fewshot_delimiter});
  return turns;
}

// What comes before a question, and the question.
class Context {
 public:
  Context(const PromptOptions& options, Turns before) : options_(options), before_(std::move(before)) {}

  std::string with(const std::string& question) const {
    Turns turns = before_;
    turns.push_back({{Role::kUser, question}, ""});
    if (!options_.chat) return joined(turns);
    std::vector<Message> messages;
    if (turns.front().message.role == Role::kSystem) {
      messages.push_back(turns.front().message);
      turns.erase(turns.begin());
    }
    if (!options_.multiturn) {
      messages.push_back({Role::kUser, joined(turns)});
      return options_.chat(messages);
    }
    for (Turn& turn : turns) messages.push_back(std::move(turn.message));
    return options_.chat(messages);
  }
  /// Between a context and a choice; a chat's assistant begins without.
  std::string delimiter(const Task& task) const { return options_.chat ? "" : task.target_delimiter; }

 private:
  static std::string joined(const Turns& turns) {
    std::string text;
    for (const Turn& turn : turns) text += turn.message.text + turn.delimiter;
    return text;
  }

  const PromptOptions& options_;
  Turns before_;
};

Document make_document(const Task& task, const OrderedJson& row, const Context& context) {
  const bool whole = task.output == Task::Output::kRolling || task.output == Task::Output::kTokens;
  Reading reading(task, row);
  Document document;
  const OrderedJson target = reading.target();
  document.target = eval::python_str(target);
  if (task.output != Task::Output::kMultipleChoice) {
    LIGER_CHECK(target.is_string(), "doc_to_target: expected a string, got ", eval::describe(target));
    document.continuations = {target.get<std::string>()};
    const OrderedJson counted = task.fields->counted.given() ? task.fields->counted.of(row) : target;
    document.counted = eval::python_str(counted);
    if (!whole) document.contexts = {context.with(eval::python_str(reading.text()))};
    return document;
  }
  const OrderedJson text = reading.text();
  const std::string delimiter = context.delimiter(task);
  if (text.is_number()) {  // a context for each choice, and one continuation of all
    document.gold = {reading.choice(text, "doc_to_text")};
    for (const std::string& choice : reading.choices) document.contexts.push_back(context.with(choice));
    document.continuations.assign(reading.choices.size(), delimiter + document.target);
  } else {
    if (target.is_array()) {
      for (const OrderedJson& one : target) document.gold.push_back(reading.choice(one, "doc_to_target"));
    } else {
      document.gold = {reading.choice(target, "doc_to_target")};
    }
    document.contexts = {context.with(text.get<std::string>())};
    for (const std::string& choice : reading.choices) document.continuations.push_back(delimiter + choice);
  }
  document.choices = std::move(reading.choices);
  return document;
}

}  // namespace

std::vector<Document> build_documents(const Task& task, const TaskData& data, const TaskData& examples, int64_t limit,
                                      const PromptOptions& options) {
  std::optional<eval::ExampleSampler> sampler;
  if (options.shots > 0) sampler.emplace(task, examples, options.shots, options.seed);
  std::vector<Turns> as_example(sampler ? examples.rows.size() : 0);
  std::vector<Document> documents;
  for (int64_t i = 0; i < std::min(limit, std::ssize(data.rows)); ++i) {
    const OrderedJson& row = data.rows[i];
    Turns before;
    with_context(data.where(i), [&] {
      const eval::TaskField& field = task.fields->description;
      const std::string description = field.given() ? eval::python_str(field.of(row)) : "";
      std::string system = delimited(options.system_instruction, description, task.fewshot_delimiter);
      if (!system.empty()) before.push_back({{Role::kSystem, std::move(system)}, ""});
    });
    for (const size_t example : sampler ? sampler->draw(row) : std::vector<size_t>{}) {
      Turns& turns = as_example[example];
      if (turns.empty())
        turns = with_context(examples.where(example), [&] { return shown(task, examples.rows[example]); });
      before.insert(before.end(), turns.begin(), turns.end());
    }
    const Context context(options, std::move(before));
    documents.push_back(with_context(data.where(i), [&] { return make_document(task, row, context); }));
    documents.back().row = i;
  }
  return documents;
}

}  // namespace liger
