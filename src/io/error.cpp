// Keeps liger_io a library while its parsers arrive.
#include "liger/error.h"
