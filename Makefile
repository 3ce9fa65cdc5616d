# hangupd. `make help` lists the goals.

CFLAGS  ?= -O2 -g
PREFIX  ?= /usr/local
DESTDIR ?=
OBJCOPY ?= objcopy
# The command line of `make run`.
ARGS    ?= --listen 127.0.0.1:8080
# Sanitizers, as in SAN=address,undefined.
SAN     ?=
# The suites that `make check` runs, as in SUITES=check_hangup.
SUITES  ?= $(notdir $(basename $(wildcard tests/suites/check_*.c tests/fuzz/fuzz_*.c)))
# How long `make fuzz` runs each target, and which.
FUZZ_SECONDS ?= 600
FUZZ    ?= $(notdir $(basename $(wildcard tests/fuzz/fuzz_*.c)))

# The products lie at the top level; in BUILD, when that was chosen or sanitizers are on.
comma := ,
ifeq ($(origin BUILD),undefined)
TOOLS := .build/tools
BUILD := .build$(if $(SAN),/$(subst $(comma),-,$(SAN)))
OUT   := $(if $(SAN),$(BUILD),.)
else
TOOLS := $(BUILD)/tools
OUT   := $(BUILD)
endif
ifneq ($(filter $(patsubst %/,%,$(abspath $(BUILD)))/%,$(CURDIR)/),)
$(error BUILD must be a directory of its own, not one that holds the sources)
endif

PRODUCTS := $(OUT)/hangupd $(OUT)/libhangupd.a
HEADERS  := $(wildcard include/hangupd/*.h)
OBJECTS  := $(patsubst %,$(BUILD)/%.o,server handler cleanup)
# The tests by kind, each in its directory of tests/; tests/README.md is their map.
SUITE_BINARIES := $(patsubst tests/%.c,$(BUILD)/%,$(wildcard tests/suites/check_*.c))
EXAMPLES := $(patsubst tests/%.c,$(BUILD)/%,$(wildcard tests/examples/example_*.c))
FAULT_BINARIES := $(patsubst tests/%.c,$(BUILD)/%,$(wildcard tests/faults/fault_*.c))
FAULTS   := $(notdir $(FAULT_BINARIES))
TARGETS  := $(notdir $(basename $(wildcard tests/fuzz/fuzz_*.c)))
REPLAYS  := $(addprefix $(BUILD)/replays/,$(TARGETS))
FUZZERS  := $(addprefix $(BUILD)/fuzzers/,$(TARGETS))
MEASURED := $(BUILD)/bench/handlers
MEASURES := $(addprefix $(BUILD)/bench/,floor hello stream load)
HARNESS  := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/tools/*.c))

# ---- Flags -------------------------------------------------------------------------------

has_flag = $(shell $(CC) -Werror $(1) -E -x c /dev/null >/dev/null 2>&1 && echo $(1))
# Fortified functions need the optimizer, and get in the way of the sanitizers' own checks.
fortify  := $(if $(SAN),,$(if $(filter -O1 -O2 -O3 -Os,$(CFLAGS)),-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2))
harden   := $(fortify) -fstack-protector-strong $(call has_flag,-fcf-protection)
# What the public headers do not declare is hidden: in the library it becomes local. Its code can
# lie anywhere, as somebody's shared library may have it.
visible  := -fPIC -fvisibility=hidden
# With -flto gcc would make an object that has no names yet.
machine  := $(if $(findstring -flto,$(CFLAGS)),\
	$(CFLAGS) $(if $(findstring clang,$(CC)),,-flinker-output=nolto-rel))
sanitize := $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer)
# The length of a string is C99's concern, not that of any compiler this is for: --help has more.
warnings := -Wall -Wextra -Wpedantic -Wno-overlength-strings -Wshadow -Wstrict-prototypes \
	-Wconversion $(if $(WERROR),-Werror)
# Offsets and times of 64 bits, also where a long has 32.
language := -std=gnu17 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -D_TIME_BITS=64 -Iinclude
COMPILE   = $(CC) $(language) $(warnings) $(harden) $(visible) $(sanitize) $(CPPFLAGS) $(CFLAGS)
# A process with few mappings forks and ends fast. So hangupd is linked statically where there is a
# static C library, and must use nothing of it that loads more at run time. STATIC=-pie leaves that.
static_program := char b[9]; int main(int n, char **w) { __builtin___memset_chk(b, **w, n, 9); return *b; }
STATIC   ?= $(shell echo '$(static_program)' | \
	$(CC) -fPIE -static-pie -x c -o /dev/null - >/dev/null 2>&1 && echo -static-pie || echo -pie)
STATIC   := $(if $(SAN),-pie,$(STATIC))
link      = $(CC) $(1) -Wl,-z,relro,-z,now -Wl,-z,noexecstack $(sanitize) $(CFLAGS) $(LDFLAGS)
LINK      = $(call link,-pie)

# Say in a word what is made, or show the command with V=1.
say = $(if $(V),,@echo '  $(1) $(if $(2),$(2),$@)' && )

# ---- Building ----------------------------------------------------------------------------

all: $(PRODUCTS)

# Everything that is compiled, the tests too.
everything: all $(SUITE_BINARIES) $(EXAMPLES) $(FAULT_BINARIES) $(REPLAYS) $(MEASURED) $(MEASURES)

$(OUT)/hangupd: $(OBJECTS)
	$(call say,link   )$(call link,$(STATIC)) -o $@ $(OBJECTS) $(LDLIBS)

# One object, whose global names are those of the public headers: a program that has a function of
# its own with the name of one of ours gets neither a clash nor the wrong one, nor our main.
$(OUT)/libhangupd.a: $(OBJECTS)
	@rm -f $@
	$(call say,archive)$(CC) -r -nostdlib $(machine) -o $(BUILD)/hangupd.o $(OBJECTS) && \
	    $(OBJCOPY) --localize-hidden $(BUILD)/hangupd.o && $(AR) rcs $@ $(BUILD)/hangupd.o

# For the tests of what is inside: the same with all names.
INSIDE := $(BUILD)/inside.a
$(INSIDE): $(OBJECTS)
	@rm -f $@
	$(call say,archive)$(AR) rcs $@ $(OBJECTS)

$(BUILD)/%.o: %.c $(BUILD)/flags
	$(call say,compile,$<)$(COMPILE) -MMD -MP -c -o $@ $<

$(BUILD)/tests/%.o: tests/%.c $(BUILD)/flags | need-check
	@mkdir -p $(@D)
	$(call say,compile,$<)$(COMPILE) -Itests/tools $$(pkg-config --cflags check) -MMD -MP -c -o $@ $<

$(SUITE_BINARIES): $(BUILD)/%: $(BUILD)/tests/%.o $(HARNESS) $(INSIDE)
	@mkdir -p $(@D)
	$(call say,link   )$(LINK) -o $@ $^ $$(pkg-config --libs check) $(LDLIBS)

$(FAULT_BINARIES): $(BUILD)/%: $(BUILD)/tests/%.o $(BUILD)/tests/faults/callers.o $(HARNESS) \
    $(INSIDE)
	@mkdir -p $(@D)
	$(call say,link   )$(LINK) -o $@ $^ $$(pkg-config --libs check) $(LDLIBS)

$(EXAMPLES): $(BUILD)/%: $(BUILD)/tests/%.o $(OUT)/libhangupd.a
	@mkdir -p $(@D)
	$(call say,link   )$(LINK) -o $@ $^ $(LDLIBS)

# The ledger's target looks at every call that takes a path.
$(BUILD)/replays/fuzz_ledger $(BUILD)/fuzzers/fuzz_ledger: LDFLAGS += $(addprefix -Wl$(comma)--wrap=,\
	unlink rmdir unlinkat open open64 openat openat64 renameat chmod statx \
	syscall)

# A fuzz target that is fed files, and the same with libFuzzer (see fuzz, below).
$(REPLAYS): $(BUILD)/replays/%: $(BUILD)/tests/fuzz/%.o $(BUILD)/tests/fuzz/replay.o $(INSIDE)
	@mkdir -p $(@D)
	$(call say,link   )$(LINK) -o $@ $^ $(LDLIBS)

$(FUZZERS): $(BUILD)/fuzzers/%: $(BUILD)/tests/fuzz/%.o $(INSIDE)
	@mkdir -p $(@D)
	$(call say,link   )$(LINK) -fsanitize=fuzzer -o $@ $^ $(LDLIBS)

$(MEASURED): $(BUILD)/bench/%: $(BUILD)/tests/bench/%.o $(OUT)/libhangupd.a
	@mkdir -p $(@D)
	$(call say,link   )$(call link,$(STATIC)) -o $@ $^ $(LDLIBS)

# The least that a program can cost: static, and nothing that helps to find mistakes.
$(MEASURES): $(BUILD)/bench/%: tests/bench/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,link   )$(CC) $(language) $(warnings) $(CPPFLAGS) $(CFLAGS) -static -o $@ $<

$(BUILD)/bench/peers: tests/bench/peers.go
	@mkdir -p $(@D)
	$(call say,compile,$<)go build -o $@ $<

# Changes only when the flags do, so that other flags make other objects.
$(BUILD)/flags: FORCE
	@mkdir -p $(BUILD)
	@echo '$(COMPILE) $(call link,$(STATIC))' | cmp -s - $@ || \
	    echo '$(COMPILE) $(call link,$(STATIC))' >$@

-include $(wildcard $(BUILD)/*.d $(BUILD)/tests/*/*.d)

run: all
	exec $(OUT)/hangupd $(ARGS)

# ---- Checking ----------------------------------------------------------------------------

need-check:
	@tests/tools/need.sh pkg-config check curl procps python3 python3-prometheus-client perl git \
	    g++ netbase
	@tests/tools/need.sh --unpack $(TOOLS) xinetd openbsd-inetd

# A sanitizer's finding is a crash, which no test takes for an ordinary ending. Leaks are not looked
# for: memory of a request or a test lives as long as its process.
SUITE_ENVIRONMENT = HANGUPD=$(abspath $(OUT)/hangupd) EXAMPLES=$(abspath $(BUILD)/examples) \
	TESTS=$(abspath tests) SAN=$(SAN) CC='$(CC)' \
	PATH="$$PATH:/usr/sbin:/sbin:$(abspath $(TOOLS))/usr/sbin" \
	ASAN_OPTIONS=abort_on_error=1:detect_leaks=0 UBSAN_OPTIONS=abort_on_error=1:print_stacktrace=1 \
	TSAN_OPTIONS=abort_on_error=1:halt_on_error=1

# The suites wait more than they work: all run at once, each with its output in one piece.
check: need-check everything
	@$(MAKE) --no-print-directory -k -j --output-sync=target $(addprefix run-,$(SUITES))

# WITH='gdb --args' or 'strace -f' runs the suite below another program, on this terminal.
run-check_%:
	@$(SUITE_ENVIRONMENT) $(WITH) $(BUILD)/suites/check_$* $(if $(WITH),,</dev/null)

# A fuzz target takes its corpus, once.
run-fuzz_%:
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	    $(SUITE_ENVIRONMENT) TMPDIR="$$scratch" $(BUILD)/replays/fuzz_$* tests/fuzz/corpus/$* </dev/null

need-fuzz:
	@tests/tools/need.sh clang libclang-rt-dev pkg-config check

# libFuzzer on every target, with sanitizers, two at a time. Inputs that it finds on the way
# stay in BUILD/fuzz for the next run.
fuzz: need-fuzz
	@$(MAKE) --no-print-directory CC=clang SAN=fuzzer-no-link,address,undefined CFLAGS='-O1 -g' \
	    TOOLS=$(TOOLS) BUILD=$(BUILD)/fuzz fuzzers
	@tests/fuzz/fuzz.sh $(FUZZ_SECONDS) $(BUILD)/fuzz $(FUZZ)

fuzzers: $(FUZZERS)

need-model:
	@tests/tools/need.sh spin gcc

# The model of the promise, exhaustively, and the broken ones that must be seen to be broken.
check-model: need-model
	@mkdir -p $(BUILD)/model
	@tests/tools/model.sh $(BUILD)/model

# Each proof by itself, in full or (BRIEF=1) as long as .ci/run has time for it.
check-faults: need-check everything
	@$(MAKE) --no-print-directory -k -j1 $(addprefix run-,$(FAULTS) fault_network)

# Every commit tries another eighth of the points.
brief_syscalls = --every 8 --offset $$(git rev-list --count HEAD 2>/dev/null || echo 0) --seconds 120

run-fault_%:
	@$(SUITE_ENVIRONMENT) $(BUILD)/faults/fault_$* $(if $(BRIEF),$(or $(brief_$*),--brief)) </dev/null

need-network:
	@tests/tools/need.sh python3 iproute2 iptables openssl
	@tests/tools/need.sh --unpack $(TOOLS) nginx haproxy

need-valgrind:
	@tests/tools/need.sh valgrind

# With memcheck, all suites; BRIEF=1: something of each, as long as .ci/run has time for it. What
# check_install looks at is made by make and a compiler, not by a server.
VALGRIND_SUITES ?= $(if $(BRIEF),$(VALGRIND_BRIEF),\
	$(filter-out check_install,$(notdir $(SUITE_BINARIES))))
VALGRIND_BRIEF = check_arrival check_create check_ending check_ledger check_settle check_state \
	check_text check_hostile:ledgers check_program:undo check_routes:keys check_files check_http \
	check_status:undo check_undo:commands
# Not static: memcheck puts its own malloc in the place of libc's.
check-valgrind: need-check need-valgrind
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/valgrind TOOLS=$(TOOLS) STATIC=-pie run-valgrind

run-valgrind: everything
	@$(SUITE_ENVIRONMENT) tests/tools/valgrind.sh $(BUILD)/suites $(VALGRIND_SUITES) </dev/null

# Exit status 77: no network namespaces here.
run-fault_network: need-network everything
	@$(SUITE_ENVIRONMENT) tests/faults/fault_network.py $(if $(BRIEF),--brief) </dev/null || \
	    [ $$? -eq 77 ]

# The status page, read in a browser; screenshots in BUILD/status-page. Apart from `check`, since the
# browser is large.
check-page: need-check $(OUT)/hangupd
	@tests/tools/need.sh chromium
	@$(SUITE_ENVIRONMENT) tests/tools/status_page.sh $(BUILD)/status-page

need-libc:
	@tests/tools/need.sh musl-tools gcc-multilib

# The product with another C library, and with words of 32 bits: what programs are told and do is the
# same. musl-gcc does not look for the kernel's headers where glibc's are.
kernel_headers = -idirafter /usr/include -idirafter /usr/include/$(shell $(CC) -print-multiarch)
check-libc: need-check need-libc $(BUILD)/suites/check_program $(EXAMPLES)
	@$(MAKE) --no-print-directory CC=musl-gcc CPPFLAGS='$(kernel_headers)' BUILD=$(BUILD)/musl all
	@$(MAKE) --no-print-directory CC='gcc -m32' BUILD=$(BUILD)/m32 all
	@for other in musl m32; do \
	    $(SUITE_ENVIRONMENT) OTHER_LIBC=$$other HANGUPD=$(abspath $(BUILD))/$$other/hangupd \
	        $(BUILD)/suites/check_program </dev/null || exit 1; \
	done

# ---- Measuring ---------------------------------------------------------------------------

need-bench:
	@tests/tools/need.sh python3 strace apache2-bin busybox golang-go ucspi-tcp
	@tests/tools/need.sh --unpack $(TOOLS) lighttpd nginx fcgiwrap

# All of it takes half an hour and wants the machine for itself. BENCH=hangup is one part;
# BENCH_ROUNDS and BENCH_SECONDS make it shorter.
bench: need-bench all $(MEASURED) $(MEASURES) $(BUILD)/bench/peers
	@PATH="$$PATH:/usr/sbin:/sbin:$(abspath $(TOOLS))/usr/sbin" \
	    tests/bench/bench.py $(BUILD)/bench $(OUT)/hangupd </dev/null

# ---- Linting -----------------------------------------------------------------------------

need-lint:
	@tests/tools/need.sh clang clang-format clang-tidy cppcheck gcc binutils pkg-config check \
	    universal-ctags python3

SOURCES    = $(wildcard *.c tests/*/*.c)
FORMATTED  = $(SOURCES) $(HEADERS) $(wildcard include/*.h tests/*/*.h)
lint_make  = $(MAKE) --no-print-directory SAN= WERROR=1 CFLAGS='-O2 -g' TOOLS=$(TOOLS) BUILD=$(BUILD)/lint

format: need-lint
	clang-format -i $(FORMATTED)

# Apart, so that `make -k lint` shows what each of them finds.
lint: lint-house lint-format lint-tidy lint-cppcheck lint-gcc lint-clang lint-analyzer lint-signals

lint-house: need-lint
	@tests/tools/lint_house.py

lint-format: need-lint
	clang-format --dry-run -Werror $(FORMATTED)

lint-tidy: need-lint
	printf '%s\n' $(SOURCES) | xargs -P "$$(nproc)" -I @ \
	    clang-tidy --quiet @ -- $(language) -Itests/tools $$(pkg-config --cflags check)

lint-cppcheck: need-lint
	cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr \
	    --suppress=missingIncludeSystem --error-exitcode=1 \
	    $(filter -D% -I%,$(language)) -Itests/tools $(SOURCES)

lint-gcc lint-clang: lint-%: need-lint
	$(lint_make)-$* CC=$* everything

lint-analyzer: need-lint
	$(lint_make)-analyzer CC=gcc CPPFLAGS=-fanalyzer all

lint-signals: lint-gcc lint-clang
	tests/tools/lint_async_safe.sh $(patsubst $(BUILD)/%,$(BUILD)/lint-gcc/%,$(OBJECTS))
	tests/tools/lint_async_safe.sh $(patsubst $(BUILD)/%,$(BUILD)/lint-clang/%,$(OBJECTS))

# ---- Installing --------------------------------------------------------------------------

# Configurations to start from: inetd, xinetd, systemd, nginx, HAProxy.
DEPLOYED     := $(wildcard tests/deploy/*)
EXAMPLES_DIR := share/doc/hangupd/examples

# Made anew by each install, since it names PREFIX.
$(BUILD)/hangupd.8: $(OUT)/hangupd tests/tools/manual.awk tests/tools/hangupd.8.in FORCE
	@awk -v hangupd='$(abspath $(OUT)/hangupd)' -v examples_dir='$(PREFIX)/$(EXAMPLES_DIR)' \
	    -f tests/tools/manual.awk tests/tools/hangupd.8.in >$@

$(BUILD)/hangupd.pc: $(OUT)/hangupd FORCE
	@printf '%s\n' 'prefix=$(PREFIX)' 'includedir=$${prefix}/include' 'libdir=$${prefix}/lib' '' \
	    'Name: hangupd' 'Description: an HTTP server that undoes a request when its caller hangs up' \
	    "Version: $$($(OUT)/hangupd --version | sed 's/.* //')" \
	    'Cflags: -I$${includedir}' 'Libs: -L$${libdir} -lhangupd' >$@

install: all $(BUILD)/hangupd.8 $(BUILD)/hangupd.pc
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,bin include/hangupd lib/pkgconfig share/man/man8 \
	    $(EXAMPLES_DIR))
	install -m 755 $(OUT)/hangupd $(DESTDIR)$(PREFIX)/bin/
	install -m 644 $(OUT)/libhangupd.a $(DESTDIR)$(PREFIX)/lib/
	install -m 644 $(HEADERS) $(DESTDIR)$(PREFIX)/include/hangupd/
	install -m 644 $(BUILD)/hangupd.pc $(DESTDIR)$(PREFIX)/lib/pkgconfig/
	install -m 644 $(BUILD)/hangupd.8 $(DESTDIR)$(PREFIX)/share/man/man8/
	install -m 644 $(DEPLOYED) $(DESTDIR)$(PREFIX)/$(EXAMPLES_DIR)/

uninstall:
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/,bin/hangupd lib/libhangupd.a lib/pkgconfig/hangupd.pc \
	    share/man/man8/hangupd.8 $(HEADERS) $(patsubst tests/deploy/%,$(EXAMPLES_DIR)/%,$(DEPLOYED)))
	-rmdir $(addprefix $(DESTDIR)$(PREFIX)/,include/hangupd $(EXAMPLES_DIR) share/doc/hangupd)

clean:
	rm -rf $(BUILD) $(PRODUCTS)

help:
	@echo 'make             build ./hangupd and ./libhangupd.a'
	@echo 'make run         build, and serve the demonstration on 127.0.0.1:8080 (ARGS=... for other options)'
	@echo 'make check       build and run all tests, installing what they need (SUITES=check_hangup for one suite, ONLY=NAME for one test)'
	@echo 'make fuzz        libFuzzer on each fuzz target for FUZZ_SECONDS=$(FUZZ_SECONDS) (FUZZ=fuzz_head for one)'
	@echo 'make check-model the model of the promise, with spin'
	@echo 'make check-faults  prove the promise in storms, under abuse, on bad networks, and for long (BRIEF=1: a short proof)'
	@echo 'make check-libc  a suite with the product as musl and 32 bits make it'
	@echo 'make check-page  read the status page in Chromium, installing that; screenshots in BUILD/status-page'
	@echo 'make bench       measure beside other servers, installing them (BENCH=hangup for one part)'
	@echo 'make check-valgrind  the suites with memcheck, or their servers (BRIEF=1: something of each)'
	@echo 'make lint        how the house is built, format, static analysis, warnings of gcc and clang, signal safety'
	@echo 'make format      lay the sources out as .clang-format says'
	@echo 'make install     into PREFIX ($(PREFIX)), below DESTDIR if that is set; make uninstall'
	@echo 'make clean       remove what was built'
	@echo
	@echo 'With any of them: BUILD=directory  CC=clang  CFLAGS=...  LDFLAGS=...  WERROR=1  V=1'
	@echo '                  SAN=address,undefined (sanitizers, in a build directory of their own)'
	@echo '                  STATIC=-pie (link hangupd dynamically)'

FORCE:

.DELETE_ON_ERROR:
.PHONY: all everything run need-check check need-libc check-libc check-page check-faults check-valgrind need-network \
	run-fault_network need-fuzz fuzz fuzzers need-model check-model need-bench bench need-valgrind \
	run-valgrind need-lint format lint lint-house lint-format lint-tidy lint-cppcheck lint-gcc lint-clang \
	lint-analyzer lint-signals install uninstall clean help FORCE
# Made by `make check` and worth keeping for the next one.
.SECONDARY:
