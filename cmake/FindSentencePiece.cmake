# The static sentencepiece that cmake/bootstrap.sh builds (hidden symbols, see there), or one named by
# SentencePiece_ROOT. Defines SentencePiece::processor and SentencePiece::trainer.
find_path(SentencePiece_INCLUDE_DIR sentencepiece_processor.h
  HINTS ${SentencePiece_ROOT} ${PROJECT_SOURCE_DIR}/.deps/sentencepiece PATH_SUFFIXES include NO_DEFAULT_PATH)
find_library(SentencePiece_LIBRARY libsentencepiece.a
  HINTS ${SentencePiece_ROOT} ${PROJECT_SOURCE_DIR}/.deps/sentencepiece PATH_SUFFIXES lib NO_DEFAULT_PATH)
find_library(SentencePiece_TRAIN_LIBRARY libsentencepiece_train.a
  HINTS ${SentencePiece_ROOT} ${PROJECT_SOURCE_DIR}/.deps/sentencepiece PATH_SUFFIXES lib NO_DEFAULT_PATH)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(SentencePiece
  REQUIRED_VARS SentencePiece_LIBRARY SentencePiece_TRAIN_LIBRARY SentencePiece_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "run cmake/bootstrap.sh (make build does)")
mark_as_advanced(SentencePiece_INCLUDE_DIR SentencePiece_LIBRARY SentencePiece_TRAIN_LIBRARY)
if(SentencePiece_FOUND AND NOT TARGET SentencePiece::processor)
  find_package(Threads REQUIRED)
  add_library(SentencePiece::processor STATIC IMPORTED)
  set_target_properties(SentencePiece::processor PROPERTIES
    IMPORTED_LOCATION ${SentencePiece_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${SentencePiece_INCLUDE_DIR}
    INTERFACE_LINK_LIBRARIES Threads::Threads)
  add_library(SentencePiece::trainer STATIC IMPORTED)
  set_target_properties(SentencePiece::trainer PROPERTIES
    IMPORTED_LOCATION ${SentencePiece_TRAIN_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${SentencePiece_INCLUDE_DIR}
    INTERFACE_LINK_LIBRARIES SentencePiece::processor)
endif()
