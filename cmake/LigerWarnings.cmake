# Warnings and sanitizers for our own targets: target_link_libraries(x PRIVATE liger_options).
add_library(liger_options INTERFACE)
target_compile_options(liger_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wno-unused-parameter -Wnon-virtual-dtor -Woverloaded-virtual>)
if(LIGER_WERROR)
  target_compile_options(liger_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(LIGER_SANITIZE)
  target_compile_options(liger_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${LIGER_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all>)
  target_link_options(liger_options INTERFACE -fsanitize=${LIGER_SANITIZE})
endif()
