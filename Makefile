# Forseti. `make demo` shows what it does, `make test` shows that it does it.

GO      ?= go
GOFUMPT := mvdan.cc/gofumpt@v0.12.0
STATIC  := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# Modules of their own, so that what they need is linked by their users only. each runs a command in every one of them.
MODULES := runtime/forsetigrpc cmd/forseti-bench
each     = @set -e; for m in $(MODULES); do echo "$$m: $(1)"; (cd $$m && $(1)); done

.PHONY: help demo build test quick check fmt bench gates soak crash-test fuzz golden cover clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build ## the whole story in under a minute: embedded NATS, a node, a payment service that breaks
	@./bin/forseti demo

build: ## the forseti command, into bin/
	@test -d bin || echo "building: a minute or two the first time"
	@$(GO) build -trimpath -o bin/forseti ./cmd/forseti

test: ## everything, race detector on; then allocations and bytes per key, which that detector would falsify
	$(GO) test -race -p 3 -timeout 10m ./...
	$(GO) test -run 'Alloc|Bytes|Stable' ./actors/... ./strategies/... ./runtime ./runtime/forsetihttp
	$(call each,$(GO) test -race -timeout 5m ./...)
	$(call each,$(GO) test -run Alloc ./...)

quick: ## the tests that take seconds
	$(GO) test -short ./messages/... ./actors/... ./sinks/... ./runtime/...

check: ## what a change must pass: format, vet, staticcheck, tidy, and all tests
	@out=$$($(GO) run $(GOFUMPT) -l .) && test -z "$$out" || { echo "$$out"; echo "run make fmt"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATIC) ./...
	$(GO) mod tidy -diff
	$(call each,$(GO) vet ./...)
	$(call each,$(GO) run $(STATIC) ./...)
	$(call each,$(GO) mod tidy -diff)
	$(MAKE) test

fmt: ## format
	$(GO) run $(GOFUMPT) -w .

BENCHFLAGS ?=
bench: ## beside other libraries, and the goals: a table and bin/bench.json; a quarter of an hour. BENCHFLAGS='-only breaker', -list
	@cd cmd/forseti-bench && $(GO) build -o ../../bin/forseti-bench . && ../../bin/forseti-bench $(BENCHFLAGS)

BENCH ?= .
gates: ## our own hot paths: ns, bytes and allocations; serial, on all processors, from 64 goroutines
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem ./actors

SOAKTIME ?= 10m
soak: ## everything at once at full speed, for SOAKTIME: does anything grow, get lost, stay behind? drawn in soak.svg; then a million tasks through one node, a billion samples through the strategies
	@cd cmd/forseti-bench && $(GO) run ./soak -for $(SOAKTIME) -out ../../soak.svg
	FORSETI_SOAK_TASKS=1000000 $(GO) test ./runtime -run TestSoakTasks -count=1 -timeout 30m -v
	FORSETI_SOAK_SAMPLES=1000000000 $(GO) test ./strategies/detect ./strategies/forecast -run TestStableFarFromZero -count=1 -timeout 2h

crash-test: ## a node is killed, or stands still, at every step of a task; a checker reads NATS: half a minute
	FORSETI_CRASH_TESTS=all $(GO) test ./runtime -run TestCrashAtAnyStepLosesNothing -count=1 -parallel 4 -v
	$(GO) test ./cmd/forseti -run TestCrashLosesNothing -count=1 -v

cluster-test: ## three processes, whose servers are one cluster: kills, a rolling restart, a standstill, and, with root's rights, a partition: minutes
	FORSETI_CLUSTER_TESTS=all $(GO) test ./cmd/forseti -run 'ThreeProcesses|RollingRestart|KilledLeader|KilledAtOnce|StandsStill|CutOff' -count=1 -timeout 20m -v | grep -v '^{'

FUZZTIME ?= 30s
fuzz: ## every decoder, FUZZTIME each
	@for pkg in ./strategies/sketch ./strategies/detect ./strategies/forecast ./messages ./cluster ./actors ./actors/policy ./actors/policy/stats ./runtime ./runtime/forsetihttp ./sinks ./cmd/forseti; do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; done; done

golden: ## write golden files anew; review the diff
	$(GO) test -run 'Script' ./actors/policy -rewrite
	$(GO) test -run 'Golden' ./messages -rewrite
	$(GO) test -short ./cmd/forseti -rewrite
	$(GO) test -run 'Prints' ./examples/quickstart -rewrite
	cd cmd/forseti-bench && $(GO) test ./soak/chart -rewrite

cover: ## coverage by package
	$(GO) test -cover ./...

clean: ## what was built
	@rm -rf bin
