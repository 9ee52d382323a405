# What c10d's process groups need beside LibTorch: liger_process_groups(TARGET).
#
# Gloo is inside LibTorch, but not its headers, which c10d's own header includes: distributed/gloo_names.h declares what
# that one asks for, and the files it includes are empty. NCCL comes with the CUDA wheels: nccl.h and its library.
function(liger_process_groups target)
  set(gloo ${PROJECT_SOURCE_DIR}/src/distributed/process_group_gloo.cpp)
  get_target_property(torch_includes liger_torch INTERFACE_INCLUDE_DIRECTORIES)
  find_path(gloo_include gloo/context.h PATHS ${torch_includes} NO_DEFAULT_PATH NO_CACHE)
  if(NOT gloo_include)
    set(gloo_include ${PROJECT_BINARY_DIR}/gloo_names)
    foreach(header algorithm common/error context rendezvous/store transport/device)
      if(NOT EXISTS ${gloo_include}/gloo/${header}.h)
        file(WRITE ${gloo_include}/gloo/${header}.h "")
      endif()
    endforeach()
    set_source_files_properties(${gloo} PROPERTIES COMPILE_DEFINITIONS LIGER_GLOO_NAMES INCLUDE_DIRECTORIES ${gloo_include})
  endif()

  if(NOT EXISTS ${TORCH_INSTALL_PREFIX}/lib/libtorch_cuda.so)
    return()
  endif()
  find_package(CUDAToolkit REQUIRED)  # its headers, which NCCL's includes
  find_path(nccl_include nccl.h HINTS ${TORCH_INSTALL_PREFIX}/../nvidia/nccl/include NO_CACHE)
  find_library(nccl_library NAMES nccl libnccl.so.2 HINTS ${TORCH_INSTALL_PREFIX}/../nvidia/nccl/lib NO_CACHE)
  if(NOT nccl_include OR NOT nccl_library)
    message(STATUS "NCCL not found: training runs on one GPU")
    return()
  endif()
  set_source_files_properties(${PROJECT_SOURCE_DIR}/src/distributed/process_group_nccl.cpp PROPERTIES
    COMPILE_DEFINITIONS LIGER_NCCL INCLUDE_DIRECTORIES "${nccl_include};${CUDAToolkit_INCLUDE_DIRS}")
  target_link_libraries(${target} PRIVATE ${nccl_library})
endfunction()
