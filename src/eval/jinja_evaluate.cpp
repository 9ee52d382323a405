#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>

#include "eval/jinja_expression.h"
#include "eval/python_case.h"
#include "eval/python_text.h"
#include "eval/python_value.h"
#include "io/utf8.h"
#include "liger/error.h"

namespace liger::eval {
namespace {

using Kind = Expression::Kind;
using Values = std::vector<OrderedJson>;

constexpr size_t kMaxBytes = size_t{16} << 20;

// Where the characters of a text begin, and its end.
std::vector<size_t> character_starts(std::string_view text) {
  std::vector<size_t> starts;
  for (size_t at = 0; at < text.size(); at += detail::utf8_length(text[at])) starts.push_back(at);
  starts.push_back(text.size());
  return starts;
}

int64_t integer(const OrderedJson& value, const char* what) {
  LIGER_CHECK(value.is_number_integer(), what, ": expected an integer, got ", describe(value));
  const bool fits =
      !value.is_number_unsigned() || value.get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()};
  LIGER_CHECK(fits, what, ": the number ", value.dump(), " is too large");
  return value.get<int64_t>();
}

const std::string& text_of(const OrderedJson& value, const std::string& what) {
  LIGER_CHECK(value.is_string(), what, ": expected a string, got ", describe(value));
  return value.get_ref<const std::string&>();
}

int64_t length_of(const OrderedJson& value) {
  if (value.is_string()) return code_points(value.get_ref<const std::string&>());
  LIGER_CHECK(value.is_array() || value.is_object(), "length: expected a string or a list, got ", describe(value));
  return static_cast<int64_t>(value.size());
}

OrderedJson index(const OrderedJson& object, const OrderedJson& key) {
  if (object.is_object()) {
    const auto member = object.find(python_str(key));
    LIGER_CHECK(member != object.end(), "there is no member '", python_str(key), "'");
    return *member;
  }
  LIGER_CHECK(object.is_array() || object.is_string(), "an index: expected a list, a string or an object, got ",
              describe(object));
  const int64_t length = length_of(object), wanted = integer(key, "an index");
  const int64_t at = wanted < 0 ? wanted + length : wanted;
  LIGER_CHECK(at >= 0 && at < length, "index ", wanted, " is outside of ", describe(object), " with ", length);
  if (object.is_array()) return object[static_cast<size_t>(at)];
  const std::string& text = object.get_ref<const std::string&>();
  const std::vector<size_t> starts = character_starts(text);
  const auto i = static_cast<size_t>(at);
  return text.substr(starts[i], starts[i + 1] - starts[i]);
}

OrderedJson slice(const OrderedJson& object, const OrderedJson& begin, const OrderedJson& end,
                  const OrderedJson& stride) {
  LIGER_CHECK(object.is_array() || object.is_string(), "a slice: expected a list or a string, got ", describe(object));
  const int64_t length = length_of(object), step = stride.is_null() ? 1 : integer(stride, "a slice's step");
  LIGER_CHECK(step != 0, "a slice's step is 0");
  const int64_t lowest = step > 0 ? 0 : -1, highest = step > 0 ? length : length - 1;
  const auto bound = [&](const OrderedJson& value, int64_t otherwise) {
    if (value.is_null()) return otherwise;
    const int64_t wanted = integer(value, "a slice's end");
    return std::clamp(wanted < 0 ? wanted + length : wanted, lowest, highest);
  };
  const int64_t first = bound(begin, step > 0 ? 0 : length - 1), last = bound(end, step > 0 ? length : -1);
  OrderedJson list = OrderedJson::array();
  std::string text;
  std::vector<size_t> starts;
  if (object.is_string()) starts = character_starts(object.get_ref<const std::string&>());
  for (int64_t i = first; step > 0 ? i < last : i > last; i += step) {
    const auto at = static_cast<size_t>(i);
    if (object.is_array()) {
      list.push_back(object[at]);
    } else {
      text += object.get_ref<const std::string&>().substr(starts[at], starts[at + 1] - starts[at]);
    }
  }
  return object.is_array() ? list : OrderedJson(text);
}

OrderedJson arithmetic(const std::string& op, const OrderedJson& a, const OrderedJson& b) {
  if (op == "+" && a.is_string() && b.is_string()) return a.get<std::string>() + b.get<std::string>();
  if (op == "+" && a.is_array() && b.is_array()) {
    OrderedJson both = a;
    both.insert(both.end(), b.begin(), b.end());
    return both;
  }
  LIGER_CHECK(a.is_number() && b.is_number(), "'", op, "': expected numbers", op == "+" ? ", strings or lists" : "",
              ", got ", describe(a), " and ", describe(b));
  if (a.is_number_integer() && b.is_number_integer() && op != "/") {
    const int64_t x = integer(a, "'+'"), y = integer(b, "'+'");
    int64_t out = 0;
    bool fits = true;
    if (op == "+") fits = !__builtin_add_overflow(x, y, &out);
    if (op == "-") fits = !__builtin_sub_overflow(x, y, &out);
    if (op == "*") fits = !__builtin_mul_overflow(x, y, &out);
    if (op == "//" || op == "%") {
      LIGER_CHECK(y != 0, "'", op, "': a division by 0");
      LIGER_CHECK(y != -1 || x != std::numeric_limits<int64_t>::min(), "'", op, "': the result has more than 64 bits");
      const int64_t quotient = x / y - (x % y != 0 && (x < 0) != (y < 0) ? 1 : 0);  // Python's: towards minus infinity
      out = op == "//" ? quotient : x - quotient * y;
    }
    LIGER_CHECK(fits, "'", op, "': the result has more than 64 bits");
    return out;
  }
  const double x = a.get<double>(), y = b.get<double>();
  LIGER_CHECK(y != 0 || op == "+" || op == "-" || op == "*", "'", op, "': a division by 0");
  if (op == "+") return x + y;
  if (op == "-") return x - y;
  if (op == "*") return x * y;
  if (op == "/") return x / y;
  return op == "//" ? std::floor(x / y) : x - std::floor(x / y) * y;
}

bool contains(const OrderedJson& whole, const OrderedJson& part) {
  if (whole.is_string()) return whole.get_ref<const std::string&>().find(text_of(part, "'in'")) != std::string::npos;
  if (whole.is_object()) return part.is_string() && whole.contains(part.get<std::string>());
  LIGER_CHECK(whole.is_array(), "'in': expected a list, a string or an object, got ", describe(whole));
  return std::any_of(whole.begin(), whole.end(), [&](const OrderedJson& item) { return are_equal(item, part); });
}

bool is_less(const OrderedJson& a, const OrderedJson& b) {
  if (a.is_number() && b.is_number()) return a.get<double>() < b.get<double>();
  LIGER_CHECK(a.is_string() && b.is_string(), "a comparison: expected two numbers or two strings, got ", describe(a),
              " and ", describe(b));
  return a.get_ref<const std::string&>() < b.get_ref<const std::string&>();  // UTF-8 sorts as code points do
}

bool compare(const std::string& op, const OrderedJson& a, const OrderedJson& b) {
  if (op == "==") return are_equal(a, b);
  if (op == "!=") return !are_equal(a, b);
  if (op == "in") return contains(b, a);
  if (op == "not in") return !contains(b, a);
  if (op == "<") return is_less(a, b);
  if (op == ">") return is_less(b, a);
  return op == "<=" ? !is_less(b, a) : !is_less(a, b);
}

class Evaluator {
 public:
  Evaluator(const Scope& scope, const OrderedJson& row) : scope_(scope), row_(row) {}

  OrderedJson of(const Expression& e) const {
    OrderedJson value = compute(e);
    LIGER_CHECK(!value.is_string() || value.get_ref<const std::string&>().size() <= kMaxBytes, "a text beyond ",
                kMaxBytes, " bytes");
    return value;
  }

 private:
  const OrderedJson* find(const std::string& name) const {
    for (auto entry = scope_.rbegin(); entry != scope_.rend(); ++entry)
      if (entry->first == name) return &entry->second;
    const auto member = row_.find(name);
    return member == row_.end() ? nullptr : &*member;
  }
  OrderedJson operand(const Expression& e, size_t i) const { return of(*e.operands[i]); }
  Values rest(const Expression& e) const {
    Values values;
    for (size_t i = 1; i < e.operands.size(); ++i) values.push_back(operand(e, i));
    return values;
  }
  OrderedJson absent_or(const Expression& e, size_t i) const {
    return e.operands[i] == nullptr ? OrderedJson() : operand(e, i);
  }

  OrderedJson compute(const Expression& e) const {
    switch (e.kind) {
      case Kind::kLiteral: return e.value;
      case Kind::kName: {
        const OrderedJson* value = find(e.name);
        LIGER_CHECK(value != nullptr, "column '", e.name, "' is missing");
        return *value;
      }
      case Kind::kList: {
        OrderedJson list = OrderedJson::array();
        for (const ExpressionPtr& item : e.operands) list.push_back(of(*item));
        return list;
      }
      case Kind::kDict: {
        OrderedJson dict = OrderedJson::object();
        for (size_t i = 0; i < e.operands.size(); i += 2) dict[python_str(operand(e, i))] = operand(e, i + 1);
        return dict;
      }
      case Kind::kAttribute: {
        const OrderedJson object = operand(e, 0);
        LIGER_CHECK(object.is_object() && object.contains(e.name), "there is no '.", e.name, "' in ", describe(object));
        return object[e.name];
      }
      case Kind::kIndex: return index(operand(e, 0), operand(e, 1));
      case Kind::kSlice: return slice(operand(e, 0), absent_or(e, 1), absent_or(e, 2), absent_or(e, 3));
      case Kind::kCall: return call_method(operand(e, 0), e.name, rest(e));
      case Kind::kFilter: return filter(e);
      case Kind::kTest: return test(e);
      case Kind::kUnary:
        return e.name == "not" ? OrderedJson(!is_true(operand(e, 0))) : arithmetic("-", 0, operand(e, 0));
      case Kind::kBinary: return binary(e);
      case Kind::kConditional: return is_true(operand(e, 0)) ? operand(e, 1) : operand(e, 2);
    }
    fail(ErrorCode::kInternal, "an expression of no kind");
  }

  OrderedJson filter(const Expression& e) const {
    // The one filter that may be given what is not there.
    if (e.name == "default" && e.operands[0]->kind == Kind::kName && find(e.operands[0]->name) == nullptr)
      return e.operands.size() > 1 ? operand(e, 1) : OrderedJson("");
    return apply_filter(operand(e, 0), e.name, rest(e));
  }
  OrderedJson test(const Expression& e) const {
    const Expression& subject = *e.operands[0];
    if (e.name == "none") return of(subject).is_null();
    if (subject.kind == Kind::kName) return find(subject.name) != nullptr;
    if (subject.kind == Kind::kAttribute) {
      const OrderedJson object = operand(subject, 0);
      return object.is_object() && object.contains(subject.name);
    }
    return true;
  }
  OrderedJson binary(const Expression& e) const {
    OrderedJson left = operand(e, 0);
    if (e.name == "or") return is_true(left) ? left : operand(e, 1);
    if (e.name == "and") return is_true(left) ? operand(e, 1) : left;
    const OrderedJson right = operand(e, 1);
    if (e.name == "~") return python_str(left) + python_str(right);
    const char first = e.name[0];
    if (first == '+' || first == '-' || first == '*' || first == '/' || first == '%')
      return arithmetic(e.name, left, right);
    return compare(e.name, left, right);
  }

  const Scope& scope_;
  const OrderedJson& row_;
};

// ---- methods and filters ------------------------------------------------------------------------------------------

using Function = std::function<OrderedJson(const OrderedJson&, const Values&)>;

struct Entry {
  size_t least, most;  // arguments
  Function call;
};

std::string text_argument(const Values& arguments, size_t i) { return text_of(arguments[i], "an argument"); }

Function of_text(std::string (*change)(std::string_view)) {
  return [change](const OrderedJson& self, const Values&) { return OrderedJson(change(python_str(self))); };
}

Entry strip(Ends ends) {
  return {0, 1, [ends](const OrderedJson& self, const Values& arguments) {
            const std::string text = python_str(self);
            return OrderedJson(arguments.empty() ? stripped(text, ends)
                                                 : stripped(text, text_argument(arguments, 0), ends));
          }};
}

OrderedJson split_text(const OrderedJson& self, const Values& arguments) {
  const std::string& text = text_of(self, "split()");
  if (arguments.empty() || arguments[0].is_null()) return split(text);
  return split(text, text_argument(arguments, 0), arguments.size() > 1 ? integer(arguments[1], "split()") : -1);
}

OrderedJson replace_text(const OrderedJson& self, const Values& arguments) {
  return replaced(python_str(self), text_argument(arguments, 0), text_argument(arguments, 1),
                  arguments.size() > 2 ? integer(arguments[2], "replace()") : -1);
}

int64_t position(const OrderedJson& self, const OrderedJson& part) {
  if (self.is_array()) {
    for (size_t i = 0; i < self.size(); ++i)
      if (are_equal(self[i], part)) return static_cast<int64_t>(i);
    return -1;
  }
  const std::string& text = text_of(self, "index()");
  const size_t found = text.find(text_of(part, "index()"));
  return found == std::string::npos ? -1 : code_points(std::string_view(text).substr(0, found));
}

OrderedJson index_of(const OrderedJson& self, const Values& arguments) {
  const int64_t found = position(self, arguments[0]);
  LIGER_CHECK(found >= 0, python_repr_of(arguments[0]), " is not in ", python_repr_of(self).substr(0, 200));
  return found;
}

int64_t count_of(const OrderedJson& self, const OrderedJson& part) {
  if (self.is_array())
    return std::count_if(self.begin(), self.end(), [&](const OrderedJson& item) { return are_equal(item, part); });
  return static_cast<int64_t>(split(text_of(self, "count()"), text_of(part, "count()")).size()) - 1;
}

std::string join(const OrderedJson& list, std::string_view separator) {
  LIGER_CHECK(list.is_array(), "join: expected a list, got ", describe(list));
  std::string out;
  for (size_t i = 0; i < list.size(); ++i) out += (i > 0 ? std::string(separator) : "") + python_str(list[i]);
  return out;
}

OrderedJson members(const OrderedJson& self, bool keys, bool values) {
  LIGER_CHECK(self.is_object(), "expected an object, got ", describe(self));
  OrderedJson out = OrderedJson::array();
  for (const auto& item : self.items()) {
    if (keys && values) {
      out.push_back({item.key(), item.value()});
    } else {
      out.push_back(keys ? OrderedJson(item.key()) : item.value());
    }
  }
  return out;
}

OrderedJson get_member(const OrderedJson& self, const Values& arguments) {
  LIGER_CHECK(self.is_object(), "get(): expected an object, got ", describe(self));
  const auto found = self.find(python_str(arguments[0]));
  if (found != self.end()) return *found;
  return arguments.size() > 1 ? arguments[1] : OrderedJson();
}

const std::map<std::string, Entry, std::less<>>& methods() {
  static const std::map<std::string, Entry, std::less<>> all = {
      {"strip", strip(Ends::kBoth)},
      {"lstrip", strip(Ends::kLeft)},
      {"rstrip", strip(Ends::kRight)},
      {"lower", {0, 0, of_text(python_lower)}},
      {"upper", {0, 0, of_text(python_upper)}},
      {"capitalize", {0, 0, of_text(python_capitalize)}},
      {"title", {0, 0, of_text(python_title)}},
      {"split", {0, 2, split_text}},
      {"replace", {2, 3, replace_text}},
      {"index", {1, 1, index_of}},
      {"find", {1, 1, [](const OrderedJson& self, const Values& a) { return position(self, a[0]); }}},
      {"count", {1, 1, [](const OrderedJson& self, const Values& a) { return count_of(self, a[0]); }}},
      {"join", {1, 1, [](const OrderedJson& self, const Values& a) { return join(a[0], python_str(self)); }}},
      {"startswith",
       {1, 1,
        [](const OrderedJson& self, const Values& a) { return python_str(self).starts_with(text_argument(a, 0)); }}},
      {"endswith",
       {1, 1,
        [](const OrderedJson& self, const Values& a) { return python_str(self).ends_with(text_argument(a, 0)); }}},
      {"keys", {0, 0, [](const OrderedJson& self, const Values&) { return members(self, true, false); }}},
      {"values", {0, 0, [](const OrderedJson& self, const Values&) { return members(self, false, true); }}},
      {"items", {0, 0, [](const OrderedJson& self, const Values&) { return members(self, true, true); }}},
      {"get", {1, 2, get_member}},
  };
  return all;
}

OrderedJson to_integer(const OrderedJson& self, const Values&) {
  if (self.is_number_float()) return static_cast<int64_t>(self.get<double>());
  if (self.is_boolean()) return self.get<bool>() ? 1 : 0;
  if (self.is_number()) return self;
  const std::string text(stripped(text_of(self, "int")));
  const bool digits =
      !text.empty() && text.size() < 19 &&
      std::all_of(text.begin() + (text[0] == '-' ? 1 : 0), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  return digits && text != "-" ? std::stoll(text) : 0;  // Jinja's answer to what is no number
}

OrderedJson end_of(const OrderedJson& self, bool first) {
  LIGER_CHECK(length_of(self) > 0, first ? "first" : "last", ": there is nothing in ", describe(self));
  return index(self, first ? 0 : -1);
}

const std::map<std::string, Entry, std::less<>>& filters() {
  static const std::map<std::string, Entry, std::less<>> all = {
      {"trim", strip(Ends::kBoth)},
      {"lower", {0, 0, of_text(python_lower)}},
      {"upper", {0, 0, of_text(python_upper)}},
      {"capitalize", {0, 0, of_text(python_capitalize)}},
      {"replace", {2, 3, replace_text}},
      {"join",
       {0, 1,
        [](const OrderedJson& self, const Values& a) { return join(self, a.empty() ? "" : text_argument(a, 0)); }}},
      {"length", {0, 0, [](const OrderedJson& self, const Values&) { return length_of(self); }}},
      {"count", {0, 0, [](const OrderedJson& self, const Values&) { return length_of(self); }}},
      {"first", {0, 0, [](const OrderedJson& self, const Values&) { return end_of(self, true); }}},
      {"last", {0, 0, [](const OrderedJson& self, const Values&) { return end_of(self, false); }}},
      {"string", {0, 0, [](const OrderedJson& self, const Values&) { return python_str(self); }}},
      {"int", {0, 0, to_integer}},
      {"default", {0, 1, [](const OrderedJson& self, const Values&) { return self; }}},
  };
  return all;
}

OrderedJson call(const Entry& entry, const std::string& name, const OrderedJson& self, const Values& arguments) {
  LIGER_CHECK(arguments.size() >= entry.least && arguments.size() <= entry.most, name, "(): expected ", entry.least,
              entry.most > entry.least ? cat(" to ", entry.most) : "", " arguments, got ", arguments.size());
  return entry.call(self, arguments);
}

}  // namespace

OrderedJson evaluate(const Expression& expression, const Scope& scope, const OrderedJson& row) {
  return Evaluator(scope, row).of(expression);
}

OrderedJson call_method(const OrderedJson& object, const std::string& name, const Values& arguments) {
  const auto found = methods().find(name);
  LIGER_CHECK(found != methods().end(), "there is no method '", name, "()' here");
  return call(found->second, name, object, arguments);
}

OrderedJson apply_filter(const OrderedJson& object, const std::string& name, const Values& arguments) {
  return call(filters().at(name), name, object, arguments);
}

bool is_filter(std::string_view name) { return filters().contains(name); }

std::string filter_names() {
  std::string names;
  for (const auto& entry : filters()) names += (names.empty() ? "" : ", ") + entry.first;
  return names;
}

}  // namespace liger::eval
