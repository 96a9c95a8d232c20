# Hallmark. `make demo` shows it, `make test` proves it; `make help` lists the rest.
# Needs Go, git and make; scripts/setup installs what else a target needs.

GO       ?= go
FUZZTIME ?= 10m
KEEP     ?=
HSM      ?=
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# When the last commit was made, not the build: the same source gives the same binary.
# It is the earliest time that a device believes in.
COMMITTED := $(shell git log -1 --format=%cI 2>/dev/null)
LDFLAGS  := -s -w -X main.version=$(VERSION) -X main.built=$(COMMITTED)
BUILD    := $(GO) build -trimpath -ldflags '$(LDFLAGS)'
# Packages in which goroutines meet; the race detector needs a C compiler.
RACY     := ./relay/... ./record/sqlite/... ./ca ./ca/keys ./ca/status/... ./provisioner/... ./admin ./cmd/hallmarkd/internal/server ./admin/client ./admin/consent ./device/agent ./device/page ./device/proxy
# What goes through bytes or crashes one by one, or the same again with a journal: run without the detector alone.
STEADY   := ^(TestEveryByteMatters|TestKilledAtEveryStep|TestVerifyFinds|TestStoreWithJournal)$$

.DEFAULT_GOAL := help
.PHONY: help demo test machine lint fuzz bench build setup

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1 /p' $(MAKEFILE_LIST) | while read -r target what; do printf 'make %-7s %s\n' "$$target" "$$what"; done

demo: ## do the main job on a software TPM, a line per step (KEEP=1 leaves the server up)
	@sh scripts/setup demo
	@$(MAKE) --no-print-directory build
	@$(GO) run ./internal/demo -bin build/bin -dir build/demo $(if $(KEEP),-keep)

test: ## set up and run everything
	@sh scripts/setup test
	@sh scripts/formatted
	$(GO) vet ./...
	$(GO) build ./...
	$(GO) test -timeout 30m ./...
	$(GO) test -race -timeout 30m -skip '$(STEADY)' $(RACY)
	@sh scripts/device-size

machine: ## what docs/device.md says, on an emulated PC with a TPM (as root)
	@sh scripts/machine

lint: ## formatting, vet, staticcheck, go.mod
	@sh scripts/formatted
	$(GO) vet ./...
	$(GO) vet -tags machine ./internal/acceptance
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
	$(GO) mod tidy -diff

fuzz: ## every fuzz target in turn, FUZZTIME (10m) each
	@sh scripts/fuzz '$(FUZZTIME)'

bench: ## the figures that the project holds itself to, as ratios
	$(GO) test -run '^$$' -bench . -benchmem ./...
	@sh scripts/device-size

build: ## the three commands, into build/bin (HSM=1: the server speaks PKCS #11, and needs a C compiler)
	@mkdir -p build/bin
	CGO_ENABLED=0 $(BUILD) -o build/bin ./cmd/...
	$(if $(HSM),CGO_ENABLED=1 $(BUILD) -o build/bin ./cmd/hallmarkd)

setup: ## install what `make test` needs (as root), or say what to type
	@sh scripts/setup test
