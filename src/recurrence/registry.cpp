#include "liger/error.h"
#include "recurrence/structures.h"

namespace liger {

const std::vector<const Recurrence*>& recurrences() {
  static const std::vector<const Recurrence*> all = {&kGla};
  return all;
}

const Recurrence& find_recurrence(const std::string& name) {
  std::string known;
  for (const Recurrence* recurrence : recurrences()) {
    if (name == recurrence->name) return *recurrence;
    known += cat(known.empty() ? "" : ", ", recurrence->name);
  }
  fail(ErrorCode::kUsage, "recurrence '", name, "' is not known; expected one of: ", known);
}

}  // namespace liger
