# Everything from a bare Debian 12 machine: `make demo`, `make test`. PRESET picks another build (CMakePresets.json).
PRESET ?= cpu

.PHONY: build test demo clean format
build:
	@cmake/bootstrap.sh
	@cmake --preset $(PRESET) >/dev/null || cmake --preset $(PRESET)
	@cmake --build --preset $(PRESET) --target tools

test: build
	@cmake --build --preset $(PRESET)
	@ctest --preset $(PRESET)

demo: build
	@configs/demo/run.sh $(if $(filter cpu,$(PRESET)),build,build-$(PRESET))/bin out/demo

clean:
	@rm -rf build build-* out

format:
	@git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs -n 50 clang-format -i
