# `make demo` and `make test` are all a fresh machine needs: both install what is missing.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
MINISTACK_ENV := $(CURDIR)/target/ministack
SAM_ENV := $(CURDIR)/target/sam
export PATH := $(MINISTACK_ENV)/bin:$(PATH)
export SAM_CLI_TELEMETRY := 0

.PHONY: help demo local test fuzz fuzz-reader fuzz-entries fuzz-events fuzz-poller simulate simulate-scale fleet soak bench check deployment advisories fmt setup valkey ministack sam chromium

help: ## Lists the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s $$'\t'

setup: valkey ministack sam chromium ## Installs what the demo and the tests need.

valkey:
	@infra/dev/install-valkey.sh

ministack:
	@infra/dev/install-ministack.sh $(MINISTACK_ENV)

sam:
	@infra/dev/install-sam.sh $(SAM_ENV)

chromium:
	@infra/dev/install-chromium.sh

demo: valkey ## Builds, then runs the main job on real servers for about a minute. ARGS="--seconds 30 --shards 5"
	$(CARGO) run --release -p ringtide-worker --features demo --bin ringtide -- demo $(ARGS)

local: setup ## Deploys the function to a local endpoint with sam, runs the worker beside it, and audits what both did.
	$(CARGO) test --workspace --all-features --test local -- --nocapture

check: ## Formatting, lints, and licences where cargo-deny is installed.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny --log-level error check licenses bans sources; \
	else echo "cargo-deny is not installed: licences and sources of dependencies were not checked"; fi

deployment: sam chromium ## Expands and lints what is deployed, and shows that planted mistakes are found.
	$(SAM_ENV)/bin/python -B infra/lint
	$(SAM_ENV)/bin/python -B -m unittest discover -s infra/checks
	promtool check rules infra/prometheus/alerts.yaml
	promtool test rules infra/prometheus/alerts_test.yaml

test: setup check deployment ## Everything: formatting, lints, tests, doc tests, examples, the short fuzz and the demo.
	$(CARGO) test --workspace --all-features
	$(CARGO) test -p ringtide --test reader left_out
	$(CARGO) build --workspace --examples --all-features
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --all-features --no-deps --quiet

fuzz: valkey ## The protocol's interleaving fuzzer, 1,000,000 schedules. SCHEDULES=… SEED=…
	RINGTIDE_FUZZ_SCHEDULES=$${SCHEDULES:-1000000} RINGTIDE_FUZZ_SEED=$${SEED:-20260101} $(CARGO) test --release -p ringtide-tests --test interleavings -- --nocapture

fuzz-reader: ## Random schedules of the read-side crate itself, 100,000 of each setting. SCHEDULES=… SEED=…
	RINGTIDE_READER_SCHEDULES=$${SCHEDULES:-100000} RINGTIDE_READER_SEED=$${SEED:-1} $(CARGO) test --release -p ringtide --features memory --test schedules -- --nocapture

fuzz-entries: ## The reader on whatever may lie under a key, 10,000,000 entries. ENTRIES=… SEED=…
	RINGTIDE_FUZZ_ENTRIES=$${ENTRIES:-10000000} RINGTIDE_FUZZ_SEED=$${SEED:-1} $(CARGO) test --release -p ringtide --all-features --lib entry_tests -- --nocapture

fuzz-events: ## The function's fuzzer of events, 1,000,000 cases. CASES=… SEED=…
	RINGTIDE_FUZZ_EVENTS=$${CASES:-1000000} RINGTIDE_FUZZ_SEED=$${SEED:-1} $(CARGO) test --release -p ringtide-lambda --test events -- --nocapture

fuzz-poller: valkey ministack ## The function against Lambda's stream poller, 3,000 schedules. SCHEDULES=… SEED=…
	RINGTIDE_POLLER_SCHEDULES=$${SCHEDULES:-3000} RINGTIDE_POLLER_SEED=$${SEED:-1} $(CARGO) test -p ringtide-lambda --test poller no_schedule -- --nocapture

simulate: ## Fleets of workers on a simulated cloud, 1,000,000 seeds. SEEDS=… SEED=…
	RINGTIDE_SIMULATION_SEEDS=$${SEEDS:-1000000} RINGTIDE_SIMULATION_SEED=$${SEED:-1} $(CARGO) test --release -p ringtide-worker --lib simulated::campaign::no_schedule -- --nocapture

simulate-scale: ## What a stream shard costs, with 10 to 10,000 of them: work per record, memory, a roll-over of all.
	$(CARGO) test --release -p ringtide-worker --lib simulated::scale -- --nocapture --ignored

fleet: valkey ministack ## Three worker processes that are killed, stopped and cut off, for 10 minutes. FOR=seconds SEED=… ENDPOINT=ministack FAULTS=… OUTAGE=seconds
	RINGTIDE_FLEET_SECONDS=$${FOR:-600} RINGTIDE_FLEET_SEED=$${SEED:-1} RINGTIDE_FLEET_ENDPOINT=$${ENDPOINT:-emulator} \
	RINGTIDE_FLEET_FAULTS=$${FAULTS:-} RINGTIDE_FLEET_OUTAGE=$${OUTAGE:-} $(CARGO) test -p ringtide-worker --all-features --test fleet -- --nocapture

soak: valkey ## A worker at full rate for an hour: memory flat, nothing lost. FOR=seconds SEED=…
	RINGTIDE_SOAK_SECONDS=$${FOR:-3600} RINGTIDE_SOAK_SEED=$${SEED:-1} $(CARGO) test --release -p ringtide-worker --all-features --test soak -- --nocapture

bench: valkey ## All benchmarks; the last lines are the ratios.
	$(CARGO) bench -p ringtide-tests --bench ring
	$(CARGO) bench -p ringtide-tests --bench pipeline
	$(CARGO) bench -p ringtide-tests --bench ratios
	$(CARGO) bench -p ringtide-tests --bench lag
	$(CARGO) bench -p ringtide-tests --bench isolation
	$(CARGO) bench -p ringtide-tests --bench reader
	$(CARGO) bench -p ringtide-lambda --bench function

advisories: ## Known vulnerabilities of dependencies, from the advisory database (needs cargo-deny and the network).
	cargo deny check advisories

fmt: ## Formats the code.
	$(CARGO) fmt --all
