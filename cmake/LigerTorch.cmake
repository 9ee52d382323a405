# Finds LibTorch >= 2.11: LIGER_TORCH (a LibTorch or a site-packages/torch folder), CMAKE_PREFIX_PATH, or the wheel
# that cmake/bootstrap.sh put into .venv. Nothing is downloaded here.
set(LIGER_TORCH "$ENV{LIGER_TORCH}" CACHE PATH "LibTorch folder; empty = CMAKE_PREFIX_PATH, then .venv")
file(GLOB wheel_torch ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch)
set(log_level "${CMAKE_MESSAGE_LOG_LEVEL}")
set(CMAKE_MESSAGE_LOG_LEVEL ERROR)  # its package warns of libraries that nothing here uses
if(LIGER_TORCH)
  find_package(Torch QUIET PATHS ${LIGER_TORCH} NO_DEFAULT_PATH)
else()
  find_package(Torch QUIET HINTS ${wheel_torch})
endif()
set(CMAKE_MESSAGE_LOG_LEVEL "${log_level}")
if(NOT Torch_FOUND)
  message(FATAL_ERROR "LibTorch not found: run cmake/bootstrap.sh, or set LIGER_TORCH to a LibTorch >= 2.11 folder")
endif()
if(Torch_VERSION VERSION_LESS 2.11)
  message(FATAL_ERROR "LibTorch ${Torch_VERSION} found in ${TORCH_INSTALL_PREFIX}; liger needs 2.11 or later")
endif()
message(STATUS "LibTorch ${Torch_VERSION} in ${TORCH_INSTALL_PREFIX}")

# What its own package exports drags in flags and warnings for every consumer; this is what is really needed.
add_library(liger_torch INTERFACE)
add_library(liger::torch ALIAS liger_torch)
target_include_directories(liger_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
target_link_libraries(liger_torch INTERFACE ${TORCH_LIBRARIES})
target_compile_definitions(liger_torch INTERFACE AT_PARALLEL_OPENMP=1)
