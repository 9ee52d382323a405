# Finds LibTorch >= 2.11: LIGER_TORCH (a LibTorch or a site-packages/torch folder), CMAKE_PREFIX_PATH, or the wheel
# that cmake/bootstrap.sh put into .venv. Nothing is downloaded here.
#
# Its own CMake package is not asked. That of a CUDA build wants the whole CUDA toolkit, with libraries that nothing
# here calls, and a CMake that knows nvcc's dialects; and it drags flags and warnings into every consumer.
set(LIGER_TORCH "$ENV{LIGER_TORCH}" CACHE PATH "LibTorch folder; empty = CMAKE_PREFIX_PATH, then .venv")
file(GLOB wheel_torch ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch)
if(LIGER_TORCH)
  find_path(torch_include ATen/ATen.h PATHS ${LIGER_TORCH}/include NO_DEFAULT_PATH NO_CACHE)
else()
  list(TRANSFORM wheel_torch APPEND /include)
  find_path(torch_include ATen/ATen.h HINTS ${wheel_torch} NO_CACHE)
endif()
if(NOT torch_include)
  message(FATAL_ERROR "LibTorch not found: run cmake/bootstrap.sh, or set LIGER_TORCH to a LibTorch >= 2.11 folder")
endif()
get_filename_component(TORCH_INSTALL_PREFIX ${torch_include} DIRECTORY)

file(GLOB version_headers ${torch_include}/torch/headeronly/version.h
     ${torch_include}/torch/csrc/api/include/torch/version.h)
set(Torch_VERSION 0)
foreach(header ${version_headers})
  file(READ ${header} text)
  if(text MATCHES "TORCH_VERSION[ \\\n]+\"([0-9.]+)")
    set(Torch_VERSION ${CMAKE_MATCH_1})
  endif()
endforeach()
if(Torch_VERSION VERSION_LESS 2.11)
  message(FATAL_ERROR "LibTorch ${Torch_VERSION} found in ${TORCH_INSTALL_PREFIX}; liger needs 2.11 or later")
endif()

add_library(liger_torch INTERFACE)
add_library(liger::torch ALIAS liger_torch)
target_include_directories(liger_torch SYSTEM INTERFACE ${torch_include} ${torch_include}/torch/csrc/api/include)
target_compile_definitions(liger_torch INTERFACE AT_PARALLEL_OPENMP=1)
foreach(name torch torch_cpu c10)
  target_link_libraries(liger_torch INTERFACE ${TORCH_INSTALL_PREFIX}/lib/lib${name}.so)
endforeach()
set(torch_kind "CPU")
if(EXISTS ${TORCH_INSTALL_PREFIX}/lib/libtorch_cuda.so)
  # It registers the operators for CUDA when it is loaded; no symbol of it is asked for.
  target_link_options(liger_torch INTERFACE -Wl,--no-as-needed)
  foreach(name torch_cuda c10_cuda)
    target_link_libraries(liger_torch INTERFACE ${TORCH_INSTALL_PREFIX}/lib/lib${name}.so)
  endforeach()
  set(torch_kind "CUDA")
endif()
message(STATUS "LibTorch ${Torch_VERSION} (${torch_kind}) in ${TORCH_INSTALL_PREFIX}")
