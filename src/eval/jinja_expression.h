#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "liger/io/json.h"

namespace liger::eval {

struct Expression;
using ExpressionPtr = std::shared_ptr<const Expression>;

/// An expression of Jinja, of the part that definitions of tasks use: literals, lists and dicts, names, attributes,
/// indices and slices, calls of methods, filters, the tests `is defined` and `is none`, or and not, comparisons, in,
/// + - * / // % ~ and `a if b else c`.
struct Expression {
  enum class Kind {
    kLiteral,  ///< `value`
    kName,
    kList,         ///< of all operands
    kDict,         ///< key, value, key, value, ...
    kAttribute,    ///< operand.name
    kIndex,        ///< operand[operand]
    kSlice,        ///< operand[operand:operand:operand], absent ones null
    kCall,         ///< operand.name(operands)
    kFilter,       ///< operand | name(operands)
    kTest,         ///< operand is name
    kUnary,        ///< name is "-" or "not"
    kBinary,       ///< name is the operator
    kConditional,  ///< condition, then, otherwise
  };
  Kind kind;
  std::string name = {};
  OrderedJson value = {};
  std::vector<ExpressionPtr> operands = {};
};

/// Parses one expression at the start of `text` and moves `at` behind it and the white space that follows.
/// Throws Error(kUsage) "column N: expected ..." on anything else, nesting deeper than 64 included.
ExpressionPtr parse_expression(std::string_view text, size_t& at);

/// Names that have values, the last one winning.
using Scope = std::vector<std::pair<std::string, OrderedJson>>;

/// The value, as Python and Jinja (with StrictUndefined) find it: of `scope`, else a member of `row`.
/// Throws Error(kBadInput) on a name or member that is not there, on types that do not fit, and on a result beyond 16
/// MiB.
OrderedJson evaluate(const Expression& expression, const Scope& scope, const OrderedJson& row);

/// A method of text, lists and dicts ("strip", "split", "index", "get", ...) or a filter ("join", "trim", ...), by
/// name.
OrderedJson call_method(const OrderedJson& object, const std::string& name, const std::vector<OrderedJson>& arguments);
OrderedJson apply_filter(const OrderedJson& object, const std::string& name, const std::vector<OrderedJson>& arguments);
/// Whether there is a filter of this name; all names, for messages.
bool is_filter(std::string_view name);
std::string filter_names();

}  // namespace liger::eval
