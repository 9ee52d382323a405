#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "eval/template.h"
#include "liger/io/json.h"

namespace liger::eval {

/// One of doc_to_text, doc_to_target, doc_to_choice, description: a value, a column's name, a template, or a function
/// of this program.
class TaskField {
 public:
  using Function = OrderedJson (*)(const OrderedJson& row);

  TaskField() = default;
  explicit TaskField(Function function) : what_(function) {}
  /// Throws Error(kUsage) on a template that does not parse and on a function that this program does not have.
  explicit TaskField(const Json& definition);

  bool given() const { return !std::holds_alternative<std::monostate>(what_); }
  /// Text, or what the column, the value or the function is.
  OrderedJson of(const OrderedJson& row) const;
  /// Whether that is what a template makes of the row, rather than one of its columns or a value.
  bool is_rendered(const OrderedJson& row) const;
  /// The same with a template's text read as a Python literal.
  OrderedJson literal_of(const OrderedJson& row) const;

 private:
  std::variant<std::monostate, OrderedJson, Template, Function> what_;
};

struct TaskFields {
  void (*process_docs)(OrderedJson& row) = nullptr;  ///< changes a row before anything else
  TaskField text, target, choices, description;
  TaskField counted;                  ///< the text whose words and bytes are counted; not given = the target
  std::vector<OrderedJson> examples;  ///< few-shot examples that the definition holds itself
};

/// Functions that lm-evaluation-harness's own tasks name by "!function": "hellaswag.process_docs" and others. Throw
/// Error(kUsage) with the list of those there are.
void (*find_process_docs(const std::string& name))(OrderedJson&);
OrderedJson (*find_field_function(const std::string& name))(const OrderedJson&);
/// Of process_results: what it counts.
OrderedJson (*find_counted(const std::string& name))(const OrderedJson&);

}  // namespace liger::eval
