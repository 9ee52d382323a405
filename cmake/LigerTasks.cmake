# liger_builtin_tasks(TARGET): compiles the files of configs/tasks into it (eval/builtin_tasks.h).
function(liger_builtin_tasks target)
  file(GLOB files CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/configs/tasks/*.yaml)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${files})
  set(entries "")
  foreach(file ${files})
    get_filename_component(name ${file} NAME)
    file(READ ${file} text)
    string(APPEND entries "    {\"${name}\", R\"~yaml~(${text})~yaml~\"},\n")
  endforeach()
  set(source ${PROJECT_BINARY_DIR}/builtin_tasks.cpp)
  file(CONFIGURE OUTPUT ${source} CONTENT [[
#include "eval/builtin_tasks.h"

namespace liger::eval {

std::span<const BuiltinFile> builtin_task_files() {
  static constexpr BuiltinFile files[] = {
@entries@  };
  return files;
}

}  // namespace liger::eval
]] @ONLY)
  target_sources(${target} PRIVATE ${source})
endfunction()
