# Warnings and sanitizers for our own targets: target_link_libraries(x PRIVATE liger_options).
add_library(liger_options INTERFACE)
target_compile_options(liger_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wno-unused-parameter -Wnon-virtual-dtor -Woverloaded-virtual>)
# GCC 12 sees overlapping copies in std::string operator+ that are not there (GCC bug 105329).
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(liger_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
if(LIGER_WERROR)
  target_compile_options(liger_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(LIGER_SANITIZE)
  target_compile_options(liger_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${LIGER_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all>)
  target_link_options(liger_options INTERFACE -fsanitize=${LIGER_SANITIZE})
endif()
